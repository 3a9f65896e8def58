"""Comparing conditions on the same items: Pareto sets, gains at matched utility and at matched KL, with paired intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from s2e_lens.errors import ExamplesError
from s2e_lens.evaluation.measure import Items

Axis = Literal["utility", "kl"]
RESAMPLES = 4000
ROUNDING = 1e-9


@dataclass(frozen=True)
class Gain:
    """How much better the edit's attribute is than steering's where both cost the same; positive: the edit is ahead."""

    value: float | None
    """None where the steering curve does not reach what the edit costs: nothing is extrapolated."""
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, from the bootstrap: how readily a gain of 0 or of the other sign is drawn."""
    edit: float
    """The edit's attribute."""
    other: float | None
    """The other method's, interpolated."""
    at: float
    """The utility or KL at which they are compared."""
    range: tuple[float, float]
    """What the steering curve covers of it."""
    outside: float
    """Share of the bootstrap samples in which the edit lay beyond the curve's ends and was compared with the nearest end."""

    @property
    def note(self) -> str:
        """Why there is no value; empty where there is one."""
        if self.value is not None:
            return ""
        return f"steering does not reach {self.at:.4g}: it covers {self.range[0]:.4g} to {self.range[1]:.4g}"


class Resampled:
    """One set of bootstrap draws over items, used for every condition alike, so that differences are paired.

    Row 0 is the data themselves; each other row draws items with replacement: attribute items, the items of each task, and
    passages of neutral text.
    """

    def __init__(self, like: Items, *, seed: int = 0, resamples: int = RESAMPLES):
        """Draw for conditions with as many items as ``like``."""
        self._like = like
        rng = np.random.default_rng(seed)

        def draws(count: int) -> Float[np.ndarray, "draw item"]:
            sampled = rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count
            return np.concatenate([np.full((1, count), 1 / count), sampled])

        self._attribute = draws(len(like.attribute))
        self._tasks = {name: draws(len(each)) for name, each in like.tasks.items()}
        self._passages = draws(len(like.tokens))

    def attribute(self, items: Items) -> Float[np.ndarray, " draw"]:
        """Mean attribute in every draw.

        Raises:
            ExamplesError: if the condition has another number of items.
        """
        if len(items.attribute) != self._attribute.shape[1] or {n: len(v) for n, v in items.tasks.items()} != {
            name: each.shape[1] for name, each in self._tasks.items()
        }:
            raise ExamplesError("a metric gave another number of items under one condition than under another; it must not.")
        return self._attribute @ items.attribute

    def utility(self, items: Items) -> Float[np.ndarray, " draw"]:
        """Mean over the tasks of their mean; without tasks, minus the log perplexity."""
        if not items.tasks:
            return -(self._passages @ items.losses) / (self._passages @ items.tokens)
        return np.mean([self._tasks[name] @ each for name, each in items.tasks.items()], axis=0)

    def kl(self, items: Items) -> Float[np.ndarray, " draw"]:
        """KL per token of neutral text."""
        return (self._passages @ items.divergences) / (self._passages @ items.tokens)


def along(
    x: Float[np.ndarray, " draw"],
    xs: Float[np.ndarray, "draw point"],
    ys: Float[np.ndarray, "draw point"],
    *,
    sign: int = 1,
) -> Float[np.ndarray, " draw"]:
    """The height of a path of straight pieces where it passes x: the best one (of largest ``sign * y``) if it passes often.

    NaN where the path does not reach x.

    >>> float(along(np.array([1.5]), np.array([[0.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 5.0]]))[0])
    3.0
    """
    left, right = xs[:, :-1], xs[:, 1:]
    inside = (np.minimum(left, right) <= x[:, None]) & (x[:, None] <= np.maximum(left, right))
    flat = left == right
    share = np.divide(x[:, None] - left, right - left, out=np.zeros_like(left), where=inside & ~flat)  # at most 1: no overflow
    heights = ys[:, :-1] + share * (ys[:, 1:] - ys[:, :-1])
    heights = np.where(flat, sign * np.maximum(sign * ys[:, :-1], sign * ys[:, 1:]), heights)
    best = np.max(np.where(inside, sign * heights, -np.inf), axis=1)
    return np.where(np.isfinite(best), sign * best, np.nan)


def matched_gain(
    edit: Items, curve: Sequence[Items], draws: Resampled, *, by: Axis = "utility", higher_is_better: bool = True
) -> Gain:
    """The edit's attribute minus the curve's, interpolated where the curve has the edit's utility (or KL).

    The curve joins its points by straight lines, in their order: steering by strength, the unedited model at strength 0. The
    interval is the 2.5th to 97.5th percentile over paired bootstrap draws. In a draw where the edit lies beyond the curve's ends
    it is compared with the nearest end; in the data themselves it is not compared at all then.

    Args:
        edit: the edit's items.
        curve: what it is compared with, two points or more.
        draws: shared by all.
        by: what is matched.
        higher_is_better: of the attribute; otherwise the sign of the gain is turned, so that positive is better.
    """
    sign = 1 if higher_is_better else -1
    measure: Callable[[Items], np.ndarray] = draws.utility if by == "utility" else draws.kl
    xs = np.stack([measure(each) for each in curve], axis=1)
    ys = np.stack([draws.attribute(each) for each in curve], axis=1)
    x, y = measure(edit), draws.attribute(edit)
    low, high = xs.min(axis=1), xs.max(axis=1)
    outside = (x < low - ROUNDING) | (x > high + ROUNDING)  # sums of the same numbers in another order differ
    other = along(np.clip(x, low, high), xs, ys, sign=sign)
    gains = sign * (y - other)
    reached = not outside[0]
    return Gain(
        value=float(gains[0]) if reached else None,
        **(interval(gains[1:], len(edit.attribute)) if reached else {"low": None, "high": None, "p": None}),
        edit=float(y[0]),
        other=float(other[0]) if reached else None,
        at=float(x[0]),
        range=(float(low[0]), float(high[0])),
        outside=float(outside[1:].mean()),
    )


def interval(drawn: Float[np.ndarray, " draw"], items: int) -> dict[str, float]:
    """95 % percentile interval of bootstrap draws, and the two-sided p-value of 0.

    Few items can all have the same sign by chance: p is never below that of a sign test, 2 · 2^-items.
    """
    low, high = np.percentile(drawn, [2.5, 97.5])
    count = len(drawn)
    p = 2 * min((1 + np.sum(drawn <= 0)) / (count + 1), (1 + np.sum(drawn >= 0)) / (count + 1))
    return {"low": float(low), "high": float(high), "p": float(min(1.0, max(p, 2 * 0.5**items)))}


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with its 95 % interval and p-value; positive: the first is better."""

    value: float
    low: float
    high: float
    p: float


def attribute_difference(first: Items, second: Items, draws: Resampled, *, higher_is_better: bool = True) -> Difference:
    """Attribute of the first minus that of the second, signed so that positive is better."""
    gains = (1 if higher_is_better else -1) * (draws.attribute(first) - draws.attribute(second))
    return Difference(float(gains[0]), **interval(gains[1:], len(first.attribute)))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other one beats: none is as good in both numbers and better in one (higher is better).

    >>> pareto([(1.0, 1.0), (2.0, 0.5), (0.5, 0.5), (2.0, 0.5)])
    [0, 1, 3]
    """
    return [i for i, (a, b) in enumerate(points) if not any(c >= a and d >= b and (c > a or d > b) for c, d in points)]


@dataclass(frozen=True)
class Tolerance:
    """What an edit may cost on the validation split."""

    utility: float = 0.04
    """Of the mean over the tasks (0.04 is 4 points of accuracy); without tasks, nats per token of neutral text."""
    task: float = 0.1
    """Of any single task: a mean of six hides that one of them is broken."""

    def allows(self, items: Items, base: Items) -> bool:
        """Whether a condition costs no more than that."""
        tasks = all(items.tasks[name].mean() >= base.tasks[name].mean() - self.task - ROUNDING for name in base.tasks)
        return tasks and items.utility >= base.utility - self.utility - ROUNDING


def best_within(points: Sequence[tuple[float, float]], base: tuple[float, float], allowed: Sequence[bool]) -> int | None:
    """Index of the best attribute among the (attribute, utility) points that are allowed; of equal ones, the better utility.

    None if none of them has a better attribute than the base. Higher is better in both numbers.
    """
    fit = [i for i, (attribute, _) in enumerate(points) if allowed[i] and attribute > base[0]]
    return max(fit, key=lambda i: (points[i][0], points[i][1]), default=None)
