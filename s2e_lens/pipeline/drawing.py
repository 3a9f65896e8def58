"""What the trade-off figure shows of a comparison, for the report of ``run`` and for a sweep."""

import math
from collections.abc import Callable

from s2e_lens.evaluation.comparison import Comparison, Point
from s2e_lens.visualizers import Point as Drawn
from s2e_lens.visualizers import TradeOff, tradeoff_info


def comparison_tradeoff(found: Comparison, *, attribute: str, utility: str, label: Callable[[Point], str]) -> TradeOff:
    """Attribute against utility on the test split: the unedited model, steering, edits and controls.

    Bars and band are the intervals of the paired changes, since prompts differ more than conditions do. Those of a share end
    at 0 and 1.
    """
    tasks = bool(found.base.items.tasks)
    everything = [found.base, *found.curve, *found.edits, *(each.point for each in found.controls)]
    share = all((each.items.attribute >= 0).all() and (each.items.attribute <= 1).all() for each in everything)

    def drawn(each: Point, name: str | None = None) -> Drawn:
        attribute_ends = _around(found.base.attribute.value, each.change.low, each.change.high, each.attribute.value, share=share)
        utility_ends = _around(
            found.base.utility.value, each.utility_change.low, each.utility_change.high, each.utility.value, share=tasks
        )
        return Drawn(
            name=name or label(each),
            strength=0.0 if each is found.base else each.setting.strength,
            attribute=each.attribute.value,
            attribute_low=attribute_ends[0],
            attribute_high=attribute_ends[1],
            utility=each.utility.value,
            utility_low=utility_ends[0],
            utility_high=utility_ends[1],
            key=each.setting.key,
        )

    return tradeoff_info(
        base=drawn(found.base, "unedited"),
        edit=drawn(found.edit, "edit"),
        steering=[drawn(each) for each in found.curve],
        edits=[drawn(each) for each in found.edits if each is not found.edit],
        controls=[drawn(each.point, str(each.setting.method)) for each in found.controls],
        attribute=attribute,
        utility=utility,
        attribute_higher_is_better=found.higher_is_better,
        utility_higher_is_better=tasks,
        log_utility=not tasks,
    )


def _around(
    base: float, low: float | None, high: float | None, value: float, *, share: bool
) -> tuple[float | None, float | None]:
    """The interval of a change, as one of the value itself; that of a share (0 to 1) does not leave its range."""
    ends = -math.inf if low is None else base + low, math.inf if high is None else base + high
    bottom, top = (max(ends[0], 0.0), min(ends[1], 1.0)) if share else ends
    return None if low is None else min(bottom, value), None if high is None else max(top, value)
