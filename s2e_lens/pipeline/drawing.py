"""The trade-off figure of a comparison, for the report of ``run`` and for a sweep."""

from collections.abc import Callable

import plotly.graph_objects as go

from s2e_lens.evaluation.comparison import Comparison, Point
from s2e_lens.visualizers import Point as Drawn
from s2e_lens.visualizers import draw_response, response_info


def draw_tradeoff(found: Comparison, *, attribute: str, utility: str, label: Callable[[Point], str]) -> go.Figure:
    """Attribute against utility on the test split: the unedited model, steering, edits and controls.

    Bars are the intervals of the paired changes, since prompts differ more than conditions do.
    """
    tasks = bool(found.base.items.tasks)

    def drawn(each: Point, name: str | None = None) -> Drawn:
        attribute_ends = _around(found.base.attribute.value, each.change.low, each.change.high, each.attribute.value)
        utility_ends = _around(found.base.utility.value, each.utility_change.low, each.utility_change.high, each.utility.value)
        return Drawn(
            name=name or label(each),
            strength=0.0 if each is found.base else each.setting.strength,
            attribute=each.attribute.value,
            attribute_low=attribute_ends[0],
            attribute_high=attribute_ends[1],
            utility=each.utility.value,
            utility_low=utility_ends[0],
            utility_high=utility_ends[1],
        )

    return draw_response(
        response_info(
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
    )


def _around(base: float, low: float | None, high: float | None, value: float) -> tuple[float | None, float | None]:
    """The interval of a change, as one of the value itself."""
    return None if low is None else min(base + low, value), None if high is None else max(base + high, value)
