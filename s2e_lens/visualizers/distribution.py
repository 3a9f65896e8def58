"""Where an edit is: λ of every head at its own place, or how λ is distributed over the neurons of each layer.

The paper's figure (Steer2Edit, arXiv 2602.09870) sorts the heads of a layer by λ; here each keeps its index.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from s2e_lens.errors import ShapeError
from s2e_lens.results import Edit, Site, component_label
from s2e_lens.visualizers.style import (
    DIVERGING,
    EDITED,
    HOUSE,
    SEQUENTIAL,
    TOP,
    as_matrix,
    bar_above,
    plain,
    tick_step,
    x_title,
    y_title,
)

BINS = 41
"""Bins of λ over the neurons of a layer; odd, so that one lies around 0."""
Scale = Literal["common", "own"]


@dataclass(frozen=True, eq=False)
class EditPanel:
    """One edit of one model, at one site."""

    name: str
    lam: Float[np.ndarray, "layer component"]

    @property
    def limit(self) -> float:
        """The largest |λ|; 1 where there is none."""
        return float(np.abs(self.lam).max(initial=0)) or 1.0

    @property
    def edited(self) -> Int[np.ndarray, " layer"]:
        """How many components of each layer are edited."""
        return np.count_nonzero(self.lam, axis=1)

    def extreme(self, layer: int) -> int:
        """The component of the layer with the largest |λ|."""
        return int(np.abs(self.lam[layer]).argmax())


@dataclass(frozen=True, eq=False)
class EditDistribution:
    """λ of one or several edits, side by side; models may differ in shape."""

    site: Site
    panels: tuple[EditPanel, ...]

    @property
    def limit(self) -> float:
        """The largest |λ| of all panels."""
        return max(panel.limit for panel in self.panels)

    def histogram(self, panel: EditPanel, limit: float) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, "layer bin"]]:
        """Edges from -limit to limit, and how many edited components of each layer have their λ in each bin."""
        edges = np.linspace(-limit, limit, BINS + 1)
        counts = [np.histogram(row[row != 0].astype(np.float64).clip(-limit, limit), bins=edges)[0] for row in panel.lam]
        return edges, np.stack(counts)


def edit_distribution_info(edits: Mapping[str, Edit], *, site: Site = "attn") -> EditDistribution:
    """λ at a site. A sum of edits gives a panel for each of its terms, since they write different directions.

    Args:
        edits: by the name that stands above the panel, such as ``{"demo, safety": edit}``.
        site: ``attn`` for heads, ``mlp`` for neurons.

    Raises:
        ShapeError: if no edit came, none of them edits this site, or a value is not finite.
    """
    panels = []
    for name, edit in edits.items():
        terms = edit[site]
        for i, term in enumerate(terms):
            lam = as_matrix(term.lam, what=f"λ of {name}")
            panels.append(EditPanel(name if len(terms) == 1 else f"{name}, term {i + 1}", lam))
    if not panels:
        raise ShapeError(f"{len(edits)} edits came, and none of them edits the site {site!r}: there is no λ to show.")
    return EditDistribution(site, tuple(panels))


def draw_edit_distribution(info: EditDistribution, *, scale: Scale = "common", columns: int = 3) -> go.Figure:
    """Heads: λ of each, layers from the top down. Neurons: how many of each layer have which λ, the largest one marked.

    Args:
        info: what to show.
        scale: one scale of λ for all panels, or each panel's own (λ divided by its largest), for models that differ much.
        columns: panels side by side, at most.
    """
    across = 2 if len(info.panels) == 4 and columns > 2 else min(columns, len(info.panels))
    down = math.ceil(len(info.panels) / across)
    layers = max(len(panel.lam) for panel in info.panels)
    plot = max(90.0, min(280.0, (24.0 if across == 1 else 16.0) * layers))
    titles = [_title(panel, narrow=across > 1) for panel in info.panels]
    lines = max(title.count("<br>") + 1 for title in titles)
    between = 54 + 15 * lines
    inside = down * plot + (down - 1) * between
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=titles,
        horizontal_spacing=0.12 if across == 2 else 0.1 if info.site == "attn" else min(0.17, 0.5 / max(across - 1, 1)),
        vertical_spacing=between / inside if down > 1 else None,
    )
    for i, panel in enumerate(info.panels):
        row, column = divmod(i, across)
        limit = info.limit if scale == "common" else panel.limit
        drawn, xaxis = (
            _heads(panel, 1.0 if scale == "common" else limit, across)
            if info.site == "attn"
            else _neurons(info, panel, limit, across)
        )
        for trace in drawn:
            figure.add_trace(trace, row=row + 1, col=column + 1)
        figure.update_xaxes(row=row + 1, col=column + 1, showgrid=False, **xaxis)
        figure.update_yaxes(
            row=row + 1,
            col=column + 1,
            range=[len(panel.lam) - 0.5, -0.5],
            tickmode="linear",
            tick0=0,
            dtick=tick_step(len(panel.lam), most=10),
            showgrid=False,
        )
    top = TOP + 8 + 15 * lines
    figure.update_annotations(font={"size": 12}, yshift=2)
    for i in range(len(info.panels)):
        axis = "" if i == 0 else str(i + 1)
        figure.add_annotation(x_title("head" if info.site == "attn" else "λ", axis=axis, away=20))
        if i % across == 0:
            figure.add_annotation(y_title("layer", axis=axis, away=38))
    figure.update_layout(
        template=HOUSE,
        height=top + round(inside) + 50,
        margin={"t": top, "b": 50, "l": 54, "r": 16, "autoexpand": False},
        coloraxis=_colours(info, scale, over=(8 + 15 * lines) / inside),
        showlegend=False,
    )
    return figure


def _title(panel: EditPanel, *, narrow: bool) -> str:
    return f"{plain(panel.name, width=13 if narrow else 40)}<br>{panel.edited.sum():,} edited"


def _colours(info: EditDistribution, scale: Scale, *, over: float) -> dict[str, object]:
    """The colour scale of all panels: λ of heads, or the number of neurons (on a logarithmic scale)."""
    if info.site == "attn":
        limit = info.limit if scale == "common" else 1.0
        title = "λ" if scale == "common" else "λ / largest |λ| of the edit"
        bar = bar_above(title, (-limit, 0, limit))
        bar["y"] = 1 + over
        return {"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar}
    most = max(int(info.histogram(panel, panel.limit)[1].max()) for panel in info.panels)
    most = max(most, *(int(info.histogram(panel, info.limit)[1].max()) for panel in info.panels), 2)
    powers = [10**power for power in range(int(math.log10(most)) + 1)]
    ticks = powers if len(powers) > 1 else [1, most]
    bar = bar_above("edited neurons", [math.log10(each) for each in ticks], texts=[f"{each:,}" for each in ticks])
    bar["y"] = 1 + over
    return {"colorscale": [*SEQUENTIAL][::-1], "cmin": 0, "cmax": math.log10(most), "colorbar": bar}


def _heads(panel: EditPanel, unit: float, across: int) -> tuple[list[go.Heatmap | go.Scatter], dict[str, Any]]:
    """λ / unit of each head, and its axis."""
    layers, heads = panel.lam.shape
    cells = go.Heatmap(
        z=panel.lam / np.float32(unit),
        customdata=panel.lam,
        text=[[component_label("attn", layer, head) for head in range(heads)] for layer in range(layers)],
        hovertemplate="%{text}, λ %{customdata:+.3~g}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1 if heads <= 16 else 0,
        ygap=1 if layers <= 16 else 0,
        name=panel.name,
    )
    return [cells], {"tickmode": "linear", "tick0": 0, "dtick": tick_step(heads, most=16 // across), "tickangle": 0}


def _neurons(
    info: EditDistribution, panel: EditPanel, limit: float, across: int
) -> tuple[list[go.Heatmap | go.Scatter], dict[str, Any]]:
    """How many neurons of each layer have which λ, and the largest of each layer."""
    edges, counts = info.histogram(panel, limit)
    cells = go.Heatmap(
        x=((edges[:-1] + edges[1:]) / 2).astype(np.float32),
        y=np.arange(len(counts), dtype=np.float32),
        z=np.log10(counts, out=np.full(counts.shape, np.nan), where=counts > 0).astype(np.float32),
        text=[
            [
                f"layer {layer}: {count:,} neuron{'s' * (count != 1)}<br>λ {edges[i]:+.3g} to {edges[i + 1]:+.3g}"
                for i, count in enumerate(line.tolist())
            ]
            for layer, line in enumerate(counts)
        ],
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
        ygap=1,
        name=panel.name,
    )
    largest = [(layer, panel.extreme(layer)) for layer in range(len(counts)) if panel.edited[layer]]
    marks = go.Scatter(
        x=np.array([panel.lam[place] for place in largest], dtype=np.float32),
        y=np.array([layer for layer, _ in largest], dtype=np.float32),
        mode="markers",
        marker={**EDITED, "size": 6},
        text=[
            f"{component_label('mlp', *place)}, λ {panel.lam[place]:+.3g}<br>largest of the {panel.edited[place[0]]:,} edited in "
            f"layer {place[0]}"
            for place in largest
        ],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
        name=panel.name,
    )
    longest = len(f"{limit:.2g}")
    # In a narrow panel the 0 is left out where it would touch long numbers; it is in the middle.
    ticks = [-limit, limit] if across > 2 and longest > 4 else [-limit, 0, limit]
    form = ".1e" if across > 2 and longest > 6 else ".2~g"
    return [cells, marks], {"range": [-limit * 1.04, limit * 1.04], "tickvals": ticks, "tickformat": form, "tickangle": 0}
