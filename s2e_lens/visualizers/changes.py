"""Before and after, prompt by prompt: which answers an edit changed, which way, how many, and what it cost on neutral text."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from s2e_lens.errors import ShapeError
from s2e_lens.evaluation.measure import Items

LEVELS = 5
"""A measure with so many different values, or fewer, is drawn as a table of them."""


@dataclass(frozen=True, eq=False)
class Change:
    """One measure of every item, before and after."""

    name: str
    before: Float[np.ndarray, " item"]
    after: Float[np.ndarray, " item"]
    labels: tuple[str, ...]
    """What each item is called."""
    means: tuple[float, float]
    """The number that tables give, before and after: of tasks their mean, whatever their sizes; of neutral text the mean over
    tokens; of anything else the mean over items."""
    higher_is_better: bool = True

    @property
    def change(self) -> Float[np.ndarray, " item"]:
        """After minus before."""
        return self.after - self.before

    @property
    def better(self) -> Float[np.ndarray, " item"]:
        """1 where an item improved, -1 where it became worse, 0 where it stayed."""
        return np.sign(self.change) * (1.0 if self.higher_is_better else -1.0)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many items became better, stayed, and became worse."""
        return tuple(int((self.better == sign).sum()) for sign in (1, 0, -1))  # pyright: ignore[reportReturnType]

    @property
    def levels(self) -> tuple[float, ...] | None:
        """The different values, lowest first, where there are few: 0 and 1 for right or wrong. None for a continuous measure."""
        found = np.unique(np.concatenate([self.before, self.after]))
        return tuple(found.tolist()) if len(found) <= LEVELS else None

    def cell(self, before: float, after: float) -> list[int]:
        """The items that went from one value to another."""
        return [int(i) for i in np.flatnonzero((self.before == before) & (self.after == after))]


@dataclass(frozen=True, eq=False)
class Changes:
    """What the figure of changes shows."""

    measures: tuple[Change, ...]
    """The attribute, further metrics, and the utility: the items of all tasks, or -log p per token of neutral text."""
    kl: Float[np.ndarray, " passage"] | None
    """KL(before ‖ after) per token of each passage of neutral text, in nats; None where it was not measured."""
    mean_kl: float | None
    """The same over all tokens, as tables give it."""
    passages: tuple[str, ...]
    names: tuple[str, str]
    """What before and after are called."""


def changes_info(
    before: Items,
    after: Items,
    *,
    attribute: str,
    higher_is_better: bool = True,
    lower_is_better: Collection[str] = (),
    names: tuple[str, str] = ("unedited", "edit"),
    prompts: Sequence[str] | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    passages: Sequence[str] | None = None,
) -> Changes:
    """Compare two conditions item by item, from what a sweep holds of them.

    KL is to the unedited model, so it is what changed since ``before`` only if that one is unedited; otherwise it is left out.

    Args:
        before: a record's items, of the unedited model or of steering.
        after: those of another condition on the same split.
        attribute: what the attribute's metric is called.
        higher_is_better: the direction wanted of the attribute.
        lower_is_better: further metrics (``also``) of which less is better.
        names: what the two conditions are called.
        prompts: texts of the attribute's items, for the hover; numbers stand in for them otherwise.
        tasks: texts of the items of each task, by the task's name.
        passages: the passages of neutral text.

    Raises:
        ShapeError: if the two do not hold the same items, nothing was measured, a value is not finite, or texts do not fit.
    """
    if before.tasks.keys() != after.tasks.keys() or before.also.keys() != after.also.keys():
        raise ShapeError(
            f"before has the tasks {list(before.tasks)} and metrics {list(before.also)}, after {list(after.tasks)} and "
            f"{list(after.also)}; the same split of one behaviour is needed."
        )
    texts = tasks or {}
    if unknown := sorted(set(texts) - set(before.tasks)):
        raise ShapeError(f"texts came for the tasks {unknown}; the items have the tasks {list(before.tasks)}.")
    measures = [_change(attribute, before.attribute, after.attribute, _labels(prompts, len(before.attribute)), higher_is_better)]
    for name in before.also:
        labels = _labels(prompts if len(before.also[name]) == len(before.attribute) else None, len(before.also[name]))
        measures.append(_change(name, before.also[name], after.also[name], labels, name not in lower_is_better))
    neutral = _labels(passages, len(before.tokens), what="passage")
    if before.tasks:
        labels = [
            each
            for name, values in before.tasks.items()
            for each in _labels(texts.get(name), len(values), what=name, always=True)
        ]
        first, second = (np.concatenate(list(each.tasks.values())) for each in (before, after))
        measures.append(_change("utility tasks", first, second, labels, True, means=(before.utility, after.utility)))
    elif len(before.tokens):
        first, second = (each.losses / each.tokens for each in (before, after))
        means = (-before.utility, -after.utility)
        measures.append(_change("nats per token of neutral text", first, second, neutral, False, means=means))
    kl = mean_kl = None
    if len(before.tokens) and not before.divergences.any():
        kl = _change("KL", before.divergences / before.tokens, after.divergences / after.tokens, neutral, False).after
        mean_kl = after.kl
    return Changes(tuple(measures), kl, mean_kl, tuple(neutral), names)


def _labels(texts: Sequence[str] | None, count: int, *, what: str = "prompt", always: bool = False) -> list[str]:
    if texts is not None and len(texts) != count:
        raise ShapeError(f"{len(texts)} texts came for {count} items ({what}): one per item is needed, in their order.")
    numbers = [f"{what} {i + 1}" for i in range(count)]
    if texts is None:
        return numbers
    return [f"{number}: {text}" if always else text for number, text in zip(numbers, texts, strict=True)]


def _change(
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    labels: Sequence[str],
    higher_is_better: bool,
    *,
    means: tuple[float, float] | None = None,
) -> Change:
    first, second = (np.asarray(each, dtype=np.float64) for each in (before, after))
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ShapeError(f"{name} has {list(first.shape)} items before and {list(second.shape)} after; the same ones are needed.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ShapeError(f"{name} holds NaN or infinity; finite values are needed.")
    return Change(name, first, second, tuple(labels), means or (float(first.mean()), float(second.mean())), higher_is_better)


def changes_table(info: Changes) -> pd.DataFrame:
    """One row per measure and item: measure, item, before, after, change, better (1, 0 or -1); the largest changes first."""
    parts = [
        pd.DataFrame(
            {
                "measure": each.name,
                "item": list(each.labels),
                info.names[0]: each.before,
                info.names[1]: each.after,
                "change": each.change,
                "better": each.better.astype(int),
            }
        ).sort_values("change", key=np.abs, ascending=False, kind="stable")
        for each in info.measures
    ]
    return pd.concat(parts, ignore_index=True)
