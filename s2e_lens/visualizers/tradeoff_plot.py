"""Drawing the trade-off: steering as a line with a band, edits with error bars, controls by kind, the Pareto set as a stair."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from s2e_lens.visualizers.labels import NARROW, place_labels, to_pixels
from s2e_lens.visualizers.style import HOUSE, PALETTE, legend_below, plain, x_title, y_title
from s2e_lens.visualizers.tradeoff import Point, TradeOff

CONTROL_SYMBOLS = {
    "random direction": "x",
    "random components": "cross",
    "random components, signs too": "triangle-up",
    "ablation": "hexagon",
    "system prompt": "pentagon",
    "normalised steering": "hourglass",
}
"""The mark of each kind of control: the same in every figure."""
OTHER_SYMBOLS = ("triangle-down", "bowtie", "star-triangle-up", "asterisk")
"""For kinds of your own, by the order of their names."""
STEERING, EDITS, PARETO = "steering (95%)", "other edits", "Pareto set"
WRAP = 14
GREY = "#6b6b6b"
_LEFT, _RIGHT, _PLOT = 60, 16, 300.0


def control_symbols(names: Sequence[str]) -> dict[str, str]:
    """A symbol for each kind: its own where it has one."""
    others = sorted({name for name in names if name not in CONTROL_SYMBOLS})
    rest = {name: OTHER_SYMBOLS[i % len(OTHER_SYMBOLS)] for i, name in enumerate(others)}
    return {name: CONTROL_SYMBOLS.get(name) or rest[name] for name in dict.fromkeys(names)}


def draw_tradeoff(info: TradeOff) -> go.Figure:
    """Attribute (up) against utility (across): steering as a line of strengths, base and edit as marks of their own.

    The band and the bars are the intervals of the points. The dotted stair joins the Pareto set: no base, steering or edit lies
    on the better side of it. Controls are not offers, and may.
    A click gives the key of the point's setting as ``customdata[1]``.
    """
    across, up = _ranges(info)
    traces = [_band(info)] if info.band else []
    traces += [_stair(info), _line(info.path)]
    for name, symbol in control_symbols([point.name for point in info.controls]).items():
        same = [point for point in info.controls if point.name == name]
        traces.append(_marks(name, same, {"color": GREY, "size": 8, "symbol": symbol}, bars="#c4c4c4"))
    if info.edits:
        marker = {"color": PALETTE[1], "size": 7, "symbol": "diamond"}
        traces.append(_marks(EDITS, info.edits, marker, bars="rgba(213,94,0,0.35)"))
    traces.append(_steering(info, across, up))
    traces.append(_marks(info.base.name, (info.base,), {"color": PALETTE[-1], "size": 10, "symbol": "square"}))
    traces.append(_marks(info.edit.name, (info.edit,), {"color": PALETTE[1], "size": 16, "symbol": "star"}))
    named = sorted((str(each.name) for each in traces if each.showlegend is not False), key=lambda name: _rank(info, name))
    for trace in traces:
        trace.update(legendrank=_rank(info, str(trace.name)))
    figure = go.Figure(traces)
    rising = _title(info.attribute, info.attribute_higher_is_better)
    title = _title(info.utility, info.utility_higher_is_better)
    legend, bottom = legend_below(named, _PLOT, above=48.0 + 17 * title.count("<br>"))
    hidden = len(info.points) - len(info.shown)
    top = 30 if hidden else 12
    figure.update_layout(
        template=HOUSE,
        annotations=[x_title(title), y_title(rising, away=44 + 7 * rising.count("<br>"))],
        height=round(_PLOT) + top + bottom,
        legend=legend,
        margin={"l": _LEFT + 12 * rising.count("<br>"), "r": _RIGHT, "t": top, "b": bottom, "autoexpand": False},
        xaxis={
            "type": "log" if info.log_utility else "linear",
            "range": across,
            "nticks": 6,
        },
        yaxis={
            "nticks": 8,
            "range": up,
        },
    )
    if hidden:
        figure.add_annotation(
            text=f"{hidden} costlier setting{'s' * (hidden > 1)} out of view",
            xref="paper",
            yref="paper",
            x=0,
            y=1.01,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 11, "color": GREY},
        )
    return figure


def _rank(info: TradeOff, name: str) -> int:
    """The place in the legend: what is compared comes first, then the controls, by kind."""
    order = [plain(each, width=WRAP) for each in (info.edit.name, info.base.name, STEERING, EDITS, PARETO, *CONTROL_SYMBOLS)]
    return order.index(name) if name in order else len(order)


def _ranges(info: TradeOff) -> tuple[list[float], list[float]]:
    """The ranges of both axes: the points in view, and a little room."""
    across = [math.log10(point.utility) if info.log_utility else point.utility for point in info.shown]
    up = [value for point in info.shown for value in (point.attribute, *point.ends("attribute"))]
    found = []
    for values, share in ((across, 0.07), (up, 0.06)):
        room = share * (max(values) - min(values)) or 0.1
        found.append([min(values) - room, max(values) + room])
    return found[0], found[1]


def _band(info: TradeOff) -> go.Scatter:
    """Closed pieces in one trace, with gaps between them: where they overlap the colour stays the same."""
    gap = np.full((1, 2), np.nan)
    corners = np.concatenate([part for piece in info.band for part in (piece, piece[:1], gap)])[:-1]
    return go.Scatter(
        x=corners[:, 0].astype(np.float32),
        y=corners[:, 1].astype(np.float32),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor="rgba(0,114,178,0.16)",
        hoverinfo="skip",
        showlegend=False,
    )


def _stair(info: TradeOff) -> go.Scatter:
    """The border of what is reached: a point dominates all that lies below and to the costly side of it."""
    best = info.pareto
    return go.Scatter(
        x=np.array([point.utility for point in best], dtype=np.float32),
        y=np.array([point.attribute for point in best], dtype=np.float32),
        mode="lines+markers",
        line={"color": "black", "width": 1, "dash": "dot", "shape": "vh" if info.utility_higher_is_better else "hv"},
        marker={"symbol": "circle-open", "size": 13, "color": "black", "line": {"width": 1}},
        hoverinfo="skip",
        name=PARETO,
    )


def _line(path: Sequence[Point]) -> go.Scatter:
    return go.Scatter(
        x=np.array([point.utility for point in path], dtype=np.float32),
        y=np.array([point.attribute for point in path], dtype=np.float32),
        mode="lines",
        line={"color": PALETTE[0], "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )


def _steering(info: TradeOff, across: Sequence[float], up: Sequence[float]) -> go.Scatter:
    """Steering's marks, with the strengths that have room beside them at the narrowest width."""
    sides = _sides(info, across, up)
    trace = _marks(STEERING, info.steering, {"color": PALETTE[0], "size": 7, "symbol": "circle"}, bars=None)
    trace.update(
        mode="markers+text",
        text=[_strength(point) if side else "" for point, side in zip(info.steering, sides, strict=True)],
        textposition=[side or "middle right" for side in sides],
        textfont={"color": PALETTE[0], "size": 11},
    )
    return trace


def _sides(info: TradeOff, across: Sequence[float], up: Sequence[float]) -> list[str | None]:
    """Where each steering point's strength is written, if anywhere: the ends first, then those between."""
    size = (float(NARROW - _LEFT - _RIGHT), float(_PLOT))

    def pixels(points: Sequence[Point]) -> Float[np.ndarray, "point 2"]:
        utility = np.array([point.utility for point in points])
        return to_pixels(
            np.log10(utility) if info.log_utility else utility, np.array([point.attribute for point in points]), across, up, size
        )

    path = pixels(info.path)
    steps = [np.linspace(one, other, 30) for one, other in zip(path, path[1:], strict=False)]
    count = len(info.steering)
    return place_labels(
        pixels(info.steering),
        [_strength(point) for point in info.steering],
        size=size,
        marks=pixels(info.points),
        line=np.concatenate(steps) if steps else None,
        order=sorted(range(count), key=lambda i: (i not in (0, count - 1), i % 2 == count % 2, -i)),
        radius=6.5,
    )


def _marks(name: str, points: Sequence[Point], marker: dict[str, object], *, bars: str | None = "") -> go.Scatter:
    """One trace of points; ``bars`` is the colour of their intervals, None for no bars."""
    found = go.Scatter(
        x=np.array([point.utility for point in points], dtype=np.float32),
        y=np.array([point.attribute for point in points], dtype=np.float32),
        name=plain(name, width=WRAP),
        mode="markers",
        cliponaxis=False,
        marker={"line": {"color": "white", "width": 1}, **marker},
        customdata=[[_hover(point), point.key] for point in points],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    if bars is not None:
        look = {"thickness": 1, "width": 0, "color": bars or marker["color"]}
        found.update(error_x=_bars(points, "utility") | look, error_y=_bars(points, "attribute") | look)
    return found


def _bars(points: Sequence[Point], what: str) -> dict[str, object]:
    """Error bars; none where there is no interval."""
    values = np.array([getattr(point, what) for point in points])
    low, high = np.array([point.ends(what) for point in points]).T
    return {
        "type": "data",
        "array": (high - values).astype(np.float32),
        "arrayminus": (values - low).astype(np.float32),
        "visible": bool((high > low).any()),
    }


def _strength(point: Point) -> str:
    return "" if point.strength is None else f"{point.strength:+g}".replace("-", "\N{MINUS SIGN}")


def _hover(point: Point) -> str:
    strength = "" if point.strength is None else f", strength {_strength(point)}"
    lines = [f"{plain(point.name)}{strength}"]
    for what in ("attribute", "utility"):
        low, high = point.ends(what)
        lines.append(f"{what} {getattr(point, what):.3g}" + (f" ({low:.3g} to {high:.3g})" if low < high else ""))
    return "<br>".join(lines)


def _title(name: str, higher_is_better: bool) -> str:
    """An axis title that says where better is, on a line of its own below a long name."""
    better = "(higher is better →)" if higher_is_better else "(← lower is better)"
    return f"{plain(name, width=42)}{' ' if len(name) + len(better) < 38 else '<br>'}{better}"
