"""Drawing the geometry of steering vectors: norms and cosines, layer by layer."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from s2e_lens.errors import ShapeError
from s2e_lens.results import SITES
from s2e_lens.visualizers.geometry import Geometry
from s2e_lens.visualizers.style import DIVERGING, HOUSE, PALETTE, TOP, bar_above, legend_below, plain, tick_step, x_title, y_title

Between = Literal["layers", "sites", "behaviors"]
DASHES = {"attn": "solid", "mlp": "dot"}
SYMBOLS = {"attn": "circle", "mlp": "diamond"}
SITE_NAMES = {"attn": "attention", "mlp": "MLP"}
_PLOT = 240.0
_COLOURS = PALETTE[:6] + PALETTE[-1:]  # without the yellow, which is lost as a line on white


def draw_direction_norms(info: Geometry, *, relative: bool = False) -> go.Figure:
    """‖v‖ per layer: a colour for each behaviour, a dash for each site.

    Args:
        info: what to show.
        relative: divide by ‖ȳ‖, the norm of the mean output there, which compares across layers and models.
    """
    values = info.norms / np.maximum(info.outputs, np.finfo(np.float32).tiny) if relative else info.norms
    figure = _lines(values, info.names, what="‖v‖ / ‖ȳ‖" if relative else "‖v‖")
    figure.add_annotation(y_title("‖v‖ / ‖mean output‖" if relative else "‖v‖"))
    figure.update_yaxes(rangemode="tozero")
    return figure


def draw_direction_cosines(info: Geometry, *, between: Between) -> go.Figure:
    """Cosines between ``layers`` (heatmaps by behaviour and site), ``sites`` or ``behaviors`` (lines over the layers).

    The grey band is where the cosines of random directions lie (95 %).

    Raises:
        ShapeError: if cosines between behaviours are asked for, and there is only one.
    """
    if between == "layers":
        return _layer_by_layer(info)
    if between == "sites":
        rows = info.between_sites[:, None]
        figure = _lines(rows, info.names, what="cosine of attention and MLP")
        title = "cos(v attn, v mlp)"
    else:
        if not info.pairs:
            raise ShapeError(f"cosines between behaviours need two of them; {list(info.names)} came.")
        rows = info.between_behaviors
        figure = _lines(rows, [f"{info.names[i]} · {info.names[j]}" for i, j in info.pairs], what="cosine", columns=1)
        title = "cosine between behaviours"
    figure.add_hrect(y0=-info.chance, y1=info.chance, fillcolor="#bbbbbb", opacity=0.35, line_width=0, layer="below")
    low, high = min(float(rows.min()), -info.chance), max(float(rows.max()), info.chance)
    room = 0.06 * (high - low)
    figure.add_annotation(y_title(title, away=50))
    figure.update_yaxes(
        range=[max(low - room, -1.05), min(high + room, 1.05)],
        zeroline=True,
        zerolinecolor="#888888",
        nticks=7,
    )
    return figure


def _lines(rows: Float[np.ndarray, "name site layer"], names: Sequence[str], *, what: str, columns: int = 2) -> go.Figure:
    """Lines over the layers, a colour for each name and a dash for each site, with the legend under them."""
    layers = rows.shape[-1]
    figure = go.Figure()
    for i, name in enumerate(names):
        look = _COLOURS[i % len(_COLOURS)]
        for site, values in zip(SITES, rows[i], strict=False):
            shown = plain(name) + (f", {SITE_NAMES[site]}" if rows.shape[1] > 1 else "")
            figure.add_scatter(
                x=np.arange(layers, dtype=np.float32),
                y=values.astype(np.float32),
                mode="lines+markers",
                line={"color": look, "width": 1.8, "dash": DASHES[site]},
                marker={"symbol": SYMBOLS[site], "size": 6, "color": look},
                name=shown,
                legendgroup=name,
                showlegend=False,
                hovertemplate=f"{shown}<br>layer %{{x}}: {what} %{{y:.3~g}}<extra></extra>",
            )
    entries = [plain(name, width=16 if columns > 1 else 34) for name in names]
    for i, entry in enumerate(entries):
        look = {"color": _COLOURS[i % len(_COLOURS)], "width": 3}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=look, name=entry, legendgroup=names[i], showlegend=True)
    for site in SITES if rows.shape[1] > 1 else ():
        entries.append(SITE_NAMES[site])
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines+markers",
            line={"color": "#444444", "width": 1.8, "dash": DASHES[site]},
            marker={"symbol": SYMBOLS[site], "size": 6, "color": "#444444"},
            name=entries[-1],
            showlegend=True,
        )
    legend, bottom = legend_below(entries, _PLOT, columns=columns)
    figure.update_layout(
        template=HOUSE,
        annotations=[x_title("layer")],
        height=16 + round(_PLOT) + bottom,
        margin={"t": 16, "b": bottom, "l": 66, "r": 16, "autoexpand": False},
        legend={**legend, "groupclick": "togglegroup", "traceorder": "normal"},
        xaxis={
            "range": [-0.3, layers - 0.7],
            "tickmode": "linear",
            "tick0": 0,
            "dtick": tick_step(layers),
            "tickangle": 0,
        },
    )
    return figure


def _layer_by_layer(info: Geometry) -> go.Figure:
    """A heatmap for each behaviour (a row) and site (a column): layer by layer, from the top down."""
    behaviors, layers = len(info.names), info.norms.shape[-1]
    plot, between = max(90.0, min(200.0, 14.0 * layers)), 62.0
    inside = behaviors * plot + (behaviors - 1) * between
    titles = [f"{plain(name, width=18)}<br>{SITE_NAMES[site]}" for name in info.names for site in SITES]
    figure = make_subplots(
        rows=behaviors,
        cols=len(SITES),
        subplot_titles=titles,
        horizontal_spacing=0.13,
        vertical_spacing=between / inside if behaviors > 1 else None,
    )
    ticks = {"tickmode": "linear", "tick0": 0, "dtick": tick_step(layers, most=8), "showgrid": False}
    for b, s in np.ndindex(behaviors, len(SITES)):
        figure.add_trace(
            go.Heatmap(
                z=info.between_layers[b, s].astype(np.float32),
                hovertemplate="layer %{y} and layer %{x}: cosine %{z:+.3~g}<extra></extra>",
                coloraxis="coloraxis",
                name=f"{info.names[b]}, {SITES[s]}",
            ),
            row=b + 1,
            col=s + 1,
        )
        figure.update_xaxes(row=b + 1, col=s + 1, **{**ticks, "dtick": tick_step(layers, most=6), "tickangle": 0})
        figure.update_yaxes(row=b + 1, col=s + 1, range=[layers - 0.5, -0.5], **ticks)
    top = TOP + 38
    bar = bar_above("cosine between layers", (-1, 0, 1))
    bar["y"] = 1 + 38 / inside
    figure.update_annotations(font={"size": 12}, yshift=2)
    for number in range(1, 2 * behaviors + 1):
        axis = "" if number == 1 else str(number)
        if number > 2 * (behaviors - 1):
            figure.add_annotation(x_title("layer", axis=axis, away=20))
        if number % 2:
            figure.add_annotation(y_title("layer", axis=axis, away=38))
    figure.update_layout(
        template=HOUSE,
        height=top + round(inside) + 46,
        margin={"t": top, "b": 46, "l": 54, "r": 16, "autoexpand": False},
        coloraxis={"colorscale": DIVERGING, "cmin": -1, "cmax": 1, "colorbar": bar},
    )
    return figure
