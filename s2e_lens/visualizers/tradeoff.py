"""How attribute and utility answer to steering of several strengths and to the edit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from s2e_lens.errors import ShapeError
from s2e_lens.evaluation.tradeoff import pareto

FOCUS = 4.0
LEAST_FOCUS = 0.2
"""What is in view at first: settings that cost up to 4 times what the edit costs, and at least a fifth of the utility."""
CORNERS = 24
"""Corners by which an interval's ellipse is drawn."""


@dataclass(frozen=True)
class Point:
    """One measured model: the base, the edited one, or one under steering."""

    name: str
    strength: float | None
    """The steering strength; None where there is none (the edit)."""
    attribute: float
    attribute_low: float | None
    """The interval's ends, where one was computed."""
    attribute_high: float | None
    utility: float
    utility_low: float | None = None
    utility_high: float | None = None
    key: str | None = None
    """What a click on the point gives: the key of its setting."""

    def ends(self, what: str) -> tuple[float, float]:
        """Low and high end of ``attribute`` or ``utility``; the value itself where there is no interval."""
        value, low, high = (getattr(self, f"{what}{end}") for end in ("", "_low", "_high"))
        return value if low is None else low, value if high is None else high


@dataclass(frozen=True)
class TradeOff:
    """What the plot of attribute against utility shows."""

    base: Point
    edit: Point
    steering: tuple[Point, ...]
    """In the order of their strengths; points without a strength come last."""
    attribute: str
    utility: str
    attribute_higher_is_better: bool = True
    utility_higher_is_better: bool = True
    log_utility: bool = False
    edits: tuple[Point, ...] = ()
    """Other edits than the one that is shown off."""
    controls: tuple[Point, ...] = ()
    """What any claim must beat; those of one name share a mark."""

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them."""
        return (self.base, self.edit, *self.steering, *self.edits, *self.controls)

    @property
    def shown(self) -> tuple[Point, ...]:
        """The points in view at first: those that cost at most some times what the edit costs (all of them, on a log axis)."""
        if self.log_utility:
            return self.points
        sign = 1 if self.utility_higher_is_better else -1
        limit = max(FOCUS * sign * (self.base.utility - self.edit.utility), LEAST_FOCUS * abs(self.base.utility))
        return tuple(point for point in self.points if sign * (self.base.utility - point.utility) <= limit)

    @property
    def path(self) -> tuple[Point, ...]:
        """The points that the steering line joins: with the base among them, where it has a strength."""
        return self.steering if self.base.strength is None else _in_order([self.base, *self.steering])

    @property
    def pareto(self) -> tuple[Point, ...]:
        """Base, steering and edits that none of these beats in both numbers, from the lowest utility on."""
        signs = [1 if higher else -1 for higher in (self.attribute_higher_is_better, self.utility_higher_is_better)]
        offers = [self.base, *self.steering, *self.edits, self.edit]
        best = pareto([(signs[0] * each.attribute, signs[1] * each.utility) for each in offers])
        return tuple(sorted((offers[i] for i in best), key=lambda each: each.utility))

    @property
    def band(self) -> list[Float[np.ndarray, "_ 2"]]:
        """The confidence band along the steering line, as convex pieces in (utility, attribute), anticlockwise.

        Each point has an ellipse whose half axes are its intervals; a piece is the hull of two neighbours' ellipses.
        Their union is the band. On a logarithmic axis the ellipses are drawn in log utility.
        """
        pairs = list(zip(self.path, self.path[1:], strict=False)) or [(self.path[0],) * 2]
        measured = [pair for pair in pairs if any(map(_has_interval, pair))]
        hulls = [convex_hull(np.concatenate([self._ellipse(each) for each in pair])) for pair in measured]
        return [np.stack([self._utility(hull[:, 0]), hull[:, 1]], axis=1) for hull in hulls]

    def _utility(self, values: Float[np.ndarray, " corner"]) -> Float[np.ndarray, " corner"]:
        return 10**values if self.log_utility else values

    def _ellipse(self, point: Point) -> Float[np.ndarray, "corner 2"]:
        angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        axes = []
        for what, turn in (("utility", np.cos(angles)), ("attribute", np.sin(angles))):
            log = self.log_utility and what == "utility"
            value, low, high = (math.log10(each) if log else each for each in (getattr(point, what), *point.ends(what)))
            axes.append(value + turn * np.where(turn > 0, high - value, value - low))
        return np.stack(axes, axis=1)


def tradeoff_info(
    base: Point,
    edit: Point,
    steering: Sequence[Point],
    *,
    attribute: str,
    utility: str,
    attribute_higher_is_better: bool = True,
    utility_higher_is_better: bool = True,
    log_utility: bool = False,
    edits: Sequence[Point] = (),
    controls: Sequence[Point] = (),
) -> TradeOff:
    """What the plot shows.

    Args:
        base: the model as it is. Give it strength 0 to let the steering line pass through it.
        edit: the edited model.
        steering: the model under steering, one point per strength.
        attribute: what the attribute's metric is called.
        utility: what the utility's metric is called.
        attribute_higher_is_better: the direction wanted of the attribute.
        utility_higher_is_better: the direction wanted of the utility.
        log_utility: a logarithmic utility axis (for perplexity, which one strong setting would stretch).
        edits: further edits, such as the same one with λ multiplied.
        controls: random directions, random components, a system prompt.

    Raises:
        ShapeError: if no steering point came, a utility (or an end of its interval) on a logarithmic axis is not positive,
            a value is not finite, or an interval does not hold its own value.
    """
    if not steering:
        raise ShapeError("0 steering points came; at least one strength is needed.")
    for point in (base, edit, *steering, *edits, *controls):
        _check(point)
        if log_utility and min(point.utility, point.ends("utility")[0]) <= 0:
            raise ShapeError(
                f"the point {point.name!r} has utility {point.utility} ({point.ends('utility')[0]} at the low end of its "
                "interval); a logarithmic axis needs positive ones."
            )
    return TradeOff(
        base,
        edit,
        _in_order(steering),
        attribute,
        utility,
        attribute_higher_is_better,
        utility_higher_is_better,
        log_utility,
        tuple(edits),
        tuple(controls),
    )


def convex_hull(points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "corner 2"]:
    """The corners of the convex hull, anticlockwise (Andrew's monotone chain; also of points on one line).

    >>> convex_hull(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [2.0, 2.0], [0.0, 2.0]])).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]
    """
    ordered = sorted({(float(x), float(y)) for x, y in points})

    def half(some: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for x, y in some:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], (x, y)) <= 0:
                chain.pop()
            chain.append((x, y))
        return chain

    return np.array(half(ordered)[:-1] + half(ordered[::-1])[:-1] or ordered)


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive where a, b, c turn to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _in_order(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: math.inf if point.strength is None else point.strength))


def _has_interval(point: Point) -> bool:
    return any(low < high for low, high in (point.ends("attribute"), point.ends("utility")))


def _check(point: Point) -> None:
    optional = (point.strength, point.attribute_low, point.attribute_high, point.utility_low, point.utility_high)
    values = [point.attribute, point.utility, *(value for value in optional if value is not None)]
    if not all(math.isfinite(value) for value in values):
        raise ShapeError(f"the point {point.name!r} holds NaN or infinity; finite numbers are needed: {point}.")
    for what in ("attribute", "utility"):
        value, (low, high) = getattr(point, what), point.ends(what)
        if not low <= value <= high:
            raise ShapeError(f"the point {point.name!r} has {what} {value} outside its interval {low} to {high}.")
