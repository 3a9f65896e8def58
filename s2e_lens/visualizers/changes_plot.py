"""Drawing what changed: a dot for every prompt, at its value before (across) and after (up)."""

import html
import math
import textwrap

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from s2e_lens.visualizers.changes import Change, Changes
from s2e_lens.visualizers.style import HOUSE, NEGATIVE, PALETTE, POSITIVE, legend_below, plain, x_title, y_title

COLOURS = {1: POSITIVE, 0: "#a8a8a8", -1: NEGATIVE}
WORDS = {1: "better", 0: "same", -1: "worse"}
MOST = 225
"""So many dots of unchanged items are drawn in a cell; the number beside them counts all."""
_PLOT, _KL, _BETWEEN = 190.0, 120.0, 100.0


def draw_changes(info: Changes) -> go.Figure:
    """A panel for each measure, two side by side, and KL per passage below.

    A dot above the diagonal rose. Where a measure has few values, such as right and wrong, each step from one value to
    another is a cell that holds its items and their number.
    """
    rows = math.ceil(len(info.measures) / 2)
    heights = [_PLOT] * rows + ([_KL] if info.kl is not None else [])
    last_wide = len(info.measures) % 2 == 1
    specs: list[list[dict[str, object] | None]] = [[{}, {}] for _ in range(rows)]
    if last_wide:
        specs[-1] = [{"colspan": 2}, None]
    if info.kl is not None:
        specs.append([{"colspan": 2}, None])
    inside = sum(heights) + _BETWEEN * (len(heights) - 1)
    titles = [_title(each, wide=last_wide and i == len(info.measures) - 1) for i, each in enumerate(info.measures)]
    if info.kl is not None:
        titles.append(f"KL to {plain(info.names[0])}, per passage of neutral text<br>mean {info.mean_kl:.2g} nats per token")
    figure = make_subplots(
        rows=len(heights),
        cols=2,
        specs=specs,
        subplot_titles=titles,
        row_heights=heights,
        vertical_spacing=_BETWEEN / inside if len(heights) > 1 else None,
        horizontal_spacing=0.17,
    )
    figure.update_annotations(font={"size": 12}, yshift=3)
    for i, each in enumerate(info.measures):
        row, column = divmod(i, 2)
        for trace in _dots(each, info.names):
            figure.add_trace(trace, row=row + 1, col=column + 1)
        _axes(figure, each, info.names, row + 1, column + 1, number=i + 1)
    if info.kl is not None:
        figure.add_trace(_bars(info), row=len(heights), col=1)
        figure.update_xaxes(row=len(heights), col=1, showticklabels=False, ticks="", showgrid=False)
        figure.update_yaxes(row=len(heights), col=1, rangemode="tozero", nticks=4, tickformat=".2~g")
        axis = str(len(info.measures) + 1)
        figure.add_annotation(x_title("passages, by KL", axis=axis, away=6))
    for sign in (1, 0, -1):
        marker = {"size": 8, "color": COLOURS[sign]}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=WORDS[sign], showlegend=True)
    legend, bottom = legend_below(list(WORDS.values()), inside, columns=3, above=30.0 if info.kl is not None else 52.0)
    top = 24 + 15 * max(title.count("<br>") + 1 for title in titles[:2])
    figure.update_layout(
        template=HOUSE,
        height=top + round(inside) + bottom,
        margin={"t": top, "b": bottom, "l": 58, "r": 16, "autoexpand": False},
        legend=legend,
    )
    return figure


def _title(each: Change, *, wide: bool) -> str:
    """The measure, its mean before and after, and how many items went which way."""
    better, _, worse = each.counts
    return (
        f"{plain(each.name, width=40 if wide else 20)}<br>mean {each.means[0]:.3g} → {each.means[1]:.3g}<br>"
        f"{better} better, {worse} worse"
    )


def _dots(each: Change, names: tuple[str, str]) -> list[go.Scatter]:
    """One trace per direction; the changed ones lie on top."""
    places = lattice(each) if each.levels is not None else np.stack([each.before, each.after], axis=1)
    found = []
    for sign in (0, -1, 1):
        chosen = np.flatnonzero((each.better == sign) & np.isfinite(places[:, 0]))
        found.append(
            go.Scatter(
                x=places[chosen, 0].astype(np.float32),
                y=places[chosen, 1].astype(np.float32),
                mode="markers",
                marker={"color": COLOURS[sign], "size": 4 if each.levels is not None else 5, "opacity": 0.9},
                text=[_hover(each, int(i), names) for i in chosen],
                hovertemplate="%{text}<extra></extra>",
                name=f"{plain(each.name)}, {WORDS[sign]}",
                showlegend=False,
                cliponaxis=False,
            )
        )
    return found


def _hover(each: Change, i: int, names: tuple[str, str]) -> str:
    label = "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(each.labels[i], 44)[:6])
    return f"{label}<br>{plain(names[0])} {each.before[i]:.3g}, {plain(names[1])} {each.after[i]:.3g}"


def lattice(each: Change) -> Float[np.ndarray, "item 2"]:
    """A place for each item within the cell of its step, on a lattice that fits its cell; cell (i, j) has its middle at (i, j).

    Of many unchanged items, :data:`MOST` are placed, evenly, and the others get NaN.
    """
    levels = each.levels or ()
    places = np.full((len(each.before), 2), np.nan)
    for i, before in enumerate(levels):
        for j, after in enumerate(levels):
            members = each.cell(before, after)
            if len(members) > MOST and i == j:
                members = [members[int(k)] for k in np.linspace(0, len(members) - 1, MOST)]
            side = max(4, math.ceil(math.sqrt(len(members))))
            steps = (np.arange(side) + 0.5) / side - 0.5
            for place, member in enumerate(members):
                # Below the number of the cell, which stands at its top.
                places[member] = i + 0.86 * steps[place % side], j - 0.11 - 0.66 * steps[place // side]
    return places


def cell_counts(each: Change) -> Int[np.ndarray, "after before"]:
    """How many items went from each level (a column) to each level (a row, the lowest first)."""
    levels = each.levels or ()
    return np.array([[len(each.cell(before, after)) for before in levels] for after in levels], dtype=np.int64)


def _axes(figure: go.Figure, each: Change, names: tuple[str, str], row: int, column: int, *, number: int) -> None:
    axis = "" if number == 1 else str(number)
    figure.add_annotation(x_title(plain(names[0]), axis=axis, away=20))
    if column == 1:
        figure.add_annotation(y_title(plain(names[1]), axis=axis, away=42))
    if each.levels is None:
        low = min(float(each.before.min()), float(each.after.min()))
        high = max(float(each.before.max()), float(each.after.max()))
        room = 0.05 * (high - low) or 0.1
        ends = [low - room, high + room]
        figure.add_trace(
            go.Scatter(
                x=np.array(ends, dtype=np.float32),
                y=np.array(ends, dtype=np.float32),
                mode="lines",
                line={"color": "#888888", "width": 1, "dash": "dot"},
                hoverinfo="skip",
                showlegend=False,
                name="no change",
            ),
            row=row,
            col=column,
        )
        figure.update_xaxes(row=row, col=column, range=ends, nticks=5)
        figure.update_yaxes(row=row, col=column, range=ends, nticks=5)
        return
    count = len(each.levels)
    ticks = {
        "range": [-0.5, count - 0.5],
        "tickvals": np.arange(count, dtype=np.float32),
        "ticktext": [f"{level:.3g}" for level in each.levels],
        "showgrid": False,
    }
    figure.update_xaxes(row=row, col=column, **ticks)
    figure.update_yaxes(row=row, col=column, **ticks)
    for edge in np.arange(count - 1) + 0.5:
        figure.add_hline(y=edge, line={"color": "#cccccc", "width": 1}, row=row, col=column)  # pyright: ignore[reportArgumentType]
        figure.add_vline(x=edge, line={"color": "#cccccc", "width": 1}, row=row, col=column)  # pyright: ignore[reportArgumentType]
    for (j, i), held in np.ndenumerate(cell_counts(each)):
        sign = int(np.sign(j - i)) * (1 if each.higher_is_better else -1)
        figure.add_annotation(
            x=i,
            y=j + 0.5,
            yanchor="top",
            text=f"{held:,}" if held else "",
            showarrow=False,
            font={"size": 11, "color": COLOURS[sign] if sign else "#555555"},
            row=row,
            col=column,
        )


def _bars(info: Changes) -> go.Bar:
    """KL of each passage, the largest first."""
    kl = info.kl if info.kl is not None else np.zeros(0)
    order = np.argsort(-kl, kind="stable")
    return go.Bar(
        x=np.arange(len(kl), dtype=np.float32),
        y=kl[order].astype(np.float32),
        marker={"color": PALETTE[0], "line": {"width": 0}},
        text=["<br>".join(html.escape(line) for line in textwrap.wrap(info.passages[i], 44)[:4]) for i in order],
        textposition="none",
        hovertemplate="%{text}<br>KL %{y:.3~g} nats per token<extra></extra>",
        name="KL",
        showlegend=False,
    )
