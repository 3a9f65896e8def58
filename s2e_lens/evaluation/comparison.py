"""Does the edit beat steering? Selected on the validation split, reported on the test split, with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from s2e_lens.errors import PlanError
from s2e_lens.evaluation.measure import Items
from s2e_lens.evaluation.metrics import Estimate, estimate
from s2e_lens.evaluation.settings import EDIT, RANDOM_COMPONENTS, Setting
from s2e_lens.evaluation.store import Record
from s2e_lens.evaluation.tradeoff import (
    Difference,
    Gain,
    Resampled,
    Tolerance,
    attribute_difference,
    best_within,
    matched_gain,
    pareto,
)


@dataclass(frozen=True, eq=False)
class Point:
    """One setting on the test split, with intervals."""

    setting: Setting
    attribute: Estimate
    change: Estimate
    """Against the unedited model, item by item."""
    utility: Estimate
    """Mean over the tasks; perplexity of neutral text where there are none."""
    utility_change: Estimate
    items: Items


@dataclass(frozen=True, eq=False)
class Control:
    """How much better the edit's attribute is than a control's, and what the control itself does."""

    point: Point
    change: Difference
    """The control against the unedited model, signed so that positive is better."""
    behind: Difference
    """The edit against the control."""

    @property
    def setting(self) -> Setting:
        """Which control it is."""
        return self.point.setting


@dataclass(frozen=True, eq=False)
class Comparison:
    """An edit against steering on the test split."""

    edit: Point
    base: Point
    curve: tuple[Point, ...]
    """Steering, by strength."""
    edits: tuple[Point, ...]
    """Every edit that was measured on the test split, the one that is compared among them."""
    controls: tuple[Control, ...]
    at_utility: Gain
    at_kl: Gain
    same_layers: tuple[Gain, Gain] | None
    """At matched utility and KL, against steering of the layers alone that the edit changes; None where it was not measured."""
    frontier: tuple[tuple[Point, Gain], ...]
    """The gain at matched utility of every edit on the test split: the validation split's Pareto set."""
    steering: Point | None
    """Steering at the strength that the same rule selects on the validation split; None without a validation split."""
    selected: Difference | None
    """The edit's attribute against that one's: both selected in the same way."""
    tried: int
    """Edits among which the edit was chosen on the validation split; 1 where it was not chosen."""
    on_pareto_front: bool
    """Whether no other setting on the test split beats the edit in attribute and utility."""
    higher_is_better: bool


def point(record: Record, base: Record, *, seed: int = 0) -> Point:
    """Means and paired changes, with 95 % bootstrap intervals over items."""
    items, first = record.items, base.items
    if items.tasks:
        utility = estimate(*items.tasks.values(), seed=seed)
        change = estimate(*(items.tasks[each] - first.tasks[each] for each in first.tasks), seed=seed)
    else:
        count = int(items.tokens.sum())
        utility = Estimate(items.perplexity, None, None, count)
        change = Estimate(items.perplexity - first.perplexity, None, None, count)
    return Point(
        setting=record.setting,
        attribute=estimate(items.attribute, seed=seed),
        change=estimate(items.attribute - first.attribute, seed=seed),
        utility=utility,
        utility_change=change,
        items=items,
    )


def compare(
    test: Sequence[Record],
    edit: Setting,
    *,
    higher_is_better: bool,
    validation: Sequence[Record] = (),
    tolerance: Tolerance | None = None,
    tried: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare an edit with steering and controls, on the same test items.

    Args:
        test: what was measured on the test split: the unedited model, steering, edits and controls.
        edit: which edit to compare; choose it on the validation split.
        higher_is_better: of the attribute.
        validation: what was measured on the validation split, if it was.
        tolerance: what could be lost there.
        tried: how many edits the edit was chosen among; counted from ``validation`` by default.
        seed: of the bootstrap.

    Raises:
        PlanError: if the unedited model, the edit or steering is not among the test records.
    """
    by_key = {record.setting.key: record for record in test}
    base = next((record for record in test if record.setting.method == "base"), None)
    steering = [record for record in test if record.setting.method == "steering" and record.setting.everywhere]
    taken = by_key.get(edit.key)
    if base is None or taken is None or not steering:
        missing = {"the unedited model": base, "the edit": taken, "steering": steering or None}
        raise PlanError(
            f"not measured on the test split: {', '.join(name for name, found in missing.items() if found is None)}. "
            "Let the sweep finish (--resume), then compare; an edit that another tolerance than the sweep's chooses is measured "
            "on the test split only if it lies on the validation split's Pareto front."
        )
    sign = 1 if higher_is_better else -1
    draws = Resampled(base.items, seed=seed)
    path = [record.items for record in sorted([base, *steering], key=_strength)]
    edits = [record for record in test if record.setting.method == EDIT]

    def gain(items: Items, by: Any, along: Sequence[Items] = path) -> Gain:
        return matched_gain(items, along, draws, by=by, higher_is_better=higher_is_better)

    def difference(first: Record, second: Record) -> Difference:
        return attribute_difference(first.items, second.items, draws, higher_is_better=higher_is_better)

    points = {record.setting.key: point(record, base, seed=seed) for record in test}
    selected = _selected(validation, sign, tolerance or Tolerance())
    other = by_key.get(selected.key) if selected is not None else None
    everything = [(sign * float(r.items.attribute.mean()), r.items.utility) for r in [taken, base, *steering, *edits]]
    layers = edit.options.get("layers")
    there = [r for r in test if r.setting.method == "steering" and layers and r.setting.options.get("layers") == layers]
    same = [record.items for record in sorted([base, *there], key=_strength)]
    controls = [
        record
        for record in test
        if record.setting.method in ("random direction", "ablation", "system prompt", "normalised steering")
        or (record.setting.method in RANDOM_COMPONENTS and _without_seed(record.setting) == dict(edit.options))
    ]
    return Comparison(
        edit=points[edit.key],
        base=points[base.setting.key],
        curve=tuple(points[record.setting.key] for record in sorted(steering, key=_strength)),
        edits=tuple(points[record.setting.key] for record in edits),
        controls=tuple(Control(points[each.setting.key], difference(each, base), difference(taken, each)) for each in controls),
        at_utility=gain(taken.items, "utility"),
        at_kl=gain(taken.items, "kl"),
        same_layers=(gain(taken.items, "utility", same), gain(taken.items, "kl", same)) if there else None,
        frontier=tuple((points[record.setting.key], gain(record.items, "utility")) for record in edits),
        steering=points[other.setting.key] if other else None,
        selected=difference(taken, other) if other else None,
        tried=tried if tried is not None else max(1, sum(record.setting.method == EDIT for record in validation)),
        on_pareto_front=0 in pareto(everything),
        higher_is_better=higher_is_better,
    )


def _without_seed(setting: Setting) -> dict[str, Any]:
    return {name: value for name, value in setting.options.items() if name != "seed"}


def _strength(record: Record) -> float:
    return record.setting.strength or 0.0


def _selected(validation: Sequence[Record], sign: int, tolerance: Tolerance) -> Setting | None:
    """The steering strength that the rule for edits would take on the validation split."""
    base = next((record for record in validation if record.setting.method == "base"), None)
    steering = sorted((r for r in validation if r.setting.method == "steering" and r.setting.everywhere), key=_strength)
    if base is None or not steering:
        return None
    points = [(sign * float(each.items.attribute.mean()), each.items.utility) for each in [base, *steering]]
    index = best_within(points[1:], points[0], [tolerance.allows(each.items, base.items) for each in steering])
    return steering[0 if index is None else index].setting


def control_means(comparison: Comparison) -> dict[str, tuple[float, float, int]]:
    """Per kind of control: mean change against the unedited model, mean lead of the edit over it, and how many there were."""
    found: dict[str, list[Control]] = {}
    for each in comparison.controls:
        found.setdefault(str(each.setting.method), []).append(each)
    return {
        name: (
            sum(each.change.value for each in some) / len(some),
            sum(each.behind.value for each in some) / len(some),
            len(some),
        )
        for name, some in found.items()
    }


def gain_json(gain: Gain, tried: int) -> dict[str, Any]:
    """A gain as ``summary.json`` holds it."""
    found = {"value": gain.value, "low": gain.low, "high": gain.high, "p": gain.p, "settings_tried": tried}
    return {**found, "at": gain.at, "edit": gain.edit, "steering": gain.other, "covered": list(gain.range), "note": gain.note}


def gains_json(comparison: Comparison) -> dict[str, Any]:
    """The gains and the controls of a comparison, as JSON holds them."""
    tried, same = comparison.tried, comparison.same_layers
    alike = None if same is None else {by: gain_json(gain, tried) for by, gain in zip(("utility", "kl"), same, strict=True)}
    return {
        "gain_at_matched_utility": gain_json(comparison.at_utility, tried),
        "gain_at_matched_kl": gain_json(comparison.at_kl, tried),
        "against_steering_of_the_same_layers": alike,
        "controls": {
            name: {"change": change, "edit_ahead": ahead, "runs": runs}
            for name, (change, ahead, runs) in control_means(comparison).items()
        },
    }


def points_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per setting on the test split: values, paired changes and intervals."""
    everything = [comparison.base, *comparison.edits, *comparison.curve]
    rows = []
    for each in everything:
        rows.append(
            {
                "method": each.setting.method,
                "setting": each.setting.label,
                "compared": each is comparison.edit,
                **interval_columns("attribute", each.attribute),
                **interval_columns("change", each.change),
                **interval_columns("utility", each.utility),
                **interval_columns("utility_change", each.utility_change),
                "kl": each.items.kl,
                "perplexity": each.items.perplexity,
                "degenerate": each.items.degenerate,
            }
        )
    return pd.DataFrame(rows)


def interval_columns(name: str, value: Estimate) -> dict[str, float | None]:
    """A value and its interval as three columns of a table."""
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
