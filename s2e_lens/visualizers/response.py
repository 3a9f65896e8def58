"""How attribute and utility answer to steering of several strengths and to the edit."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from s2e_lens.errors import ShapeError
from s2e_lens.visualizers.style import HOUSE, PALETTE, plain

CONTROL_SYMBOLS = ("x", "cross", "triangle-down", "hexagon", "pentagon")
FOCUS = 4.0
LEAST_FOCUS = 0.2
"""What is in view at first: settings that cost up to 4 times what the edit costs, and at least a fifth of the utility."""


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


@dataclass(frozen=True)
class Response:
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
    def shown(self) -> tuple[Point, ...]:
        """The points in view at first: those that cost at most some times what the edit costs (all of them, on a log axis)."""
        points = (self.base, self.edit, *self.steering, *self.edits, *self.controls)
        if self.log_utility:
            return points
        sign = 1 if self.utility_higher_is_better else -1
        limit = max(FOCUS * sign * (self.base.utility - self.edit.utility), LEAST_FOCUS * abs(self.base.utility))
        return tuple(point for point in points if sign * (self.base.utility - point.utility) <= limit)

    @property
    def path(self) -> tuple[Point, ...]:
        """The points that the steering line joins: with the base among them, where it has a strength."""
        return self.steering if self.base.strength is None else _in_order([self.base, *self.steering])


def response_info(
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
) -> Response:
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
        ShapeError: if no steering point came, a utility on a logarithmic axis is not positive,
            a value is not finite, or an interval does not hold its own value.
    """
    if not steering:
        raise ShapeError("0 steering points came; at least one strength is needed.")
    for point in (base, edit, *steering, *edits, *controls):
        _check(point)
        if log_utility and point.utility <= 0:
            raise ShapeError(f"the point {point.name!r} has utility {point.utility}; a logarithmic axis needs positive ones.")
    return Response(
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


def _in_order(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: math.inf if point.strength is None else point.strength))


def _check(point: Point) -> None:
    optional = (point.strength, point.attribute_low, point.attribute_high, point.utility_low, point.utility_high)
    values = [point.attribute, point.utility, *(value for value in optional if value is not None)]
    if not all(math.isfinite(value) for value in values):
        raise ShapeError(f"the point {point.name!r} holds NaN or infinity; finite numbers are needed: {point}.")
    for what in ("attribute", "utility"):
        value, low, high = (getattr(point, f"{what}{end}") for end in ("", "_low", "_high"))
        low, high = value if low is None else low, value if high is None else high
        if not low <= value <= high:
            raise ShapeError(f"the point {point.name!r} has {what} {value} outside its interval {low} to {high}.")


def draw_response(info: Response) -> go.Figure:
    """Attribute (up) against utility (across): steering as a line of strengths, base and edit as marks of their own."""
    across = [point.utility for point in info.shown]
    if info.log_utility:
        across = [math.log10(value) for value in across]
    room = 0.13 * (max(across) - min(across)) or 0.1  # for the strengths written beside the points
    up = [value for point in info.shown for value in (point.attribute, point.attribute_low, point.attribute_high)]
    heights = [value for value in up if value is not None]
    above = 0.08 * (max(heights) - min(heights)) or 0.1
    figure = go.Figure()
    figure.add_scatter(
        x=np.array([point.utility for point in info.path], dtype=np.float32),
        y=np.array([point.attribute for point in info.path], dtype=np.float32),
        mode="lines",
        line={"color": PALETTE[0], "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
    steering = {"color": PALETTE[0], "size": 8, "symbol": "circle"}
    figure.add_trace(_marks("steering, by strength", info.steering, steering, sides=_sides(info)))
    for symbol, name in zip(itertools.cycle(CONTROL_SYMBOLS), dict.fromkeys(point.name for point in info.controls)):
        same = [point for point in info.controls if point.name == name]
        figure.add_trace(_marks(name, same, {"color": "#777777", "size": 8, "symbol": symbol}))
    if info.edits:
        figure.add_trace(_marks("other edits", info.edits, {"color": PALETTE[1], "size": 8, "symbol": "diamond"}))
    figure.add_trace(_marks(info.base.name, (info.base,), {"color": PALETTE[-1], "size": 10, "symbol": "square"}))
    figure.add_trace(_marks(info.edit.name, (info.edit,), {"color": PALETTE[1], "size": 15, "symbol": "star"}))
    figure.update_layout(
        template=HOUSE,
        height=420 + 20 * max(0, len(list(figure.select_traces())) - 4),  # a narrow page stacks the legend under the plot
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"b": 112},
        xaxis={
            "title": {"text": _title(info.utility, info.utility_higher_is_better)},
            "type": "log" if info.log_utility else "linear",
            "range": [min(across) - room, max(across) + room],
            "nticks": 7,
        },
        yaxis={
            "title": {"text": _title(info.attribute, info.attribute_higher_is_better)},
            "nticks": 8,
            "range": [min(heights) - above, max(heights) + above],
        },
    )
    hidden = len(info.steering) + len(info.edits) + len(info.controls) + 2 - len(info.shown)
    if hidden:
        figure.add_annotation(
            text=f"{hidden} costlier setting{'s' * (hidden > 1)} not in view: zoom out",
            xref="paper",
            yref="paper",
            x=0,
            y=1.02,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 11, "color": "#666666"},
        )
    return figure


def _marks(name: str, points: Sequence[Point], marker: dict[str, object], *, sides: list[str] | None = None) -> go.Scatter:
    """One trace of points with their intervals."""
    return go.Scatter(
        x=np.array([point.utility for point in points], dtype=np.float32),
        y=np.array([point.attribute for point in points], dtype=np.float32),
        name=plain(name),
        mode="markers+text" if sides else "markers",
        text=[_strength(point) for point in points] if sides else None,
        textposition=sides,
        textfont={"color": PALETTE[0]},
        cliponaxis=False,
        marker={"line": {"color": "white", "width": 1}, **marker},
        error_x=_bars([(p.utility, p.utility_low, p.utility_high) for p in points]),
        error_y=_bars([(p.attribute, p.attribute_low, p.attribute_high) for p in points]),
        customdata=[_hover(point) for point in points],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _bars(points: Sequence[tuple[float, float | None, float | None]]) -> dict[str, object]:
    """Error bars of (value, low, high); none where there is no interval."""
    up = np.array([0.0 if high is None else high - value for value, _, high in points], dtype=np.float32)
    down = np.array([0.0 if low is None else value - low for value, low, _ in points], dtype=np.float32)
    visible = bool((up > 0).any() or (down > 0).any())
    return {"type": "data", "array": up, "arrayminus": down, "visible": visible, "thickness": 1, "width": 3}


def _sides(info: Response) -> list[str]:
    """Where each steering point's strength is written: beside its error bar, and off the line."""
    sides: list[str] = []
    for point in info.steering:
        place = info.path.index(point)
        joined = [each for each in info.path[max(place - 1, 0) : place + 2] if each is not point]
        right = [each for each in joined if each.utility > point.utility]
        if not right:
            sides.append("middle right")
        elif len(right) == len(joined):
            sides.append("middle left")
        else:
            sides.append("bottom right" if right[0].attribute > point.attribute else "top right")
    return sides


def _strength(point: Point) -> str:
    return "" if point.strength is None else f"{point.strength:+g}".replace("-", "\N{MINUS SIGN}")


def _hover(point: Point) -> str:
    strength = "" if point.strength is None else f", strength {_strength(point)}"
    low, high = point.attribute_low, point.attribute_high
    interval = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    return f"{plain(point.name)}{strength}<br>attribute {point.attribute:.3g}{interval}<br>utility {point.utility:.3g}"


def _title(name: str, higher_is_better: bool) -> str:
    """An axis title that says where better is."""
    return plain(f"{name} (higher is better →)" if higher_is_better else f"{name} (← lower is better)", width=42)
