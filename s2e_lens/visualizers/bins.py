"""All neurons at a glance: layers from the top down, neighbouring neurons in bins, and no spike hidden.

A heatmap of 14,336 columns on a few hundred pixels drops most of its cells. Here each bin shows its signed value of largest
magnitude, so whatever stands out in the model stands out in the picture.
"""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from s2e_lens.errors import ShapeError
from s2e_lens.results import component_label
from s2e_lens.visualizers.neurons import draw_no_neurons
from s2e_lens.visualizers.style import (
    DIVERGING,
    EDITED,
    HOUSE,
    TOP,
    as_matrix,
    bar_above,
    legend_below,
    plain,
    tick_step,
    x_title,
    y_title,
)


@dataclass(frozen=True, eq=False)
class LayerBins:
    """The neuron of largest magnitude in each bin of each layer."""

    edges: Int[np.ndarray, " edge"]
    """Bin b holds the neurons edges[b] … edges[b + 1] - 1."""
    scores: Float[np.ndarray, "layer bin"]
    """The signed score of largest magnitude in the bin."""
    neurons: Int[np.ndarray, "layer bin"]
    """Whose it is; the first one of equal magnitude."""
    lam: Float[np.ndarray, "layer bin"] | None
    """λ of that neuron."""
    edited: Int[np.ndarray, "layer bin"]
    """How many neurons of the bin are edited."""
    limit: float
    """The colours run from -limit to +limit: white is 0."""
    name: str

    @property
    def labels(self) -> list[list[str]]:
        """``L5N1234`` of the neuron that each bin shows."""
        return [[component_label("mlp", layer, int(i)) for i in row] for layer, row in enumerate(self.neurons)]


def layer_bins_info(
    scores: Float[Tensor, "layer neuron"],
    *,
    bins: int = 64,
    lam: Float[Tensor, "layer neuron"] | None = None,
    name: str,
) -> LayerBins:
    """The bins, equally wide but for rounding.

    Args:
        scores: one per neuron; [layer, 0] for a mixture of experts.
        bins: per layer; no more than there are neurons. 64 are 4 pixels wide in a column of 320.
        lam: λ of each neuron; 0 means that it is left alone.
        name: what the scores are.

    Raises:
        ShapeError: if there are no layers, the shapes differ, a value is not finite, or ``bins`` is below 1.
    """
    if bins < 1:
        raise ShapeError(f"{bins} bins were asked for; bins must be 1 or more.")
    values = as_matrix(scores, what="the scores of neurons")
    edits = None if lam is None else as_matrix(lam, what="λ of neurons", like=values.shape)
    width = values.shape[1]
    count = min(bins, width)
    edges = np.arange(count + 1) * width // max(count, 1)
    parts = [slice(int(first), int(end)) for first, end in zip(edges, edges[1:], strict=False)]
    found = [np.abs(values[:, part]).argmax(axis=1) + part.start for part in parts]
    neurons = np.stack(found, axis=1) if found else np.zeros((len(values), 0), dtype=np.int64)
    edited = np.zeros(neurons.shape, dtype=np.int64)
    if edits is not None and parts:
        edited = np.stack([np.count_nonzero(edits[:, part], axis=1) for part in parts], axis=1)
    return LayerBins(
        edges=edges,
        scores=np.take_along_axis(values, neurons, axis=1),
        neurons=neurons,
        lam=None if edits is None else np.take_along_axis(edits, neurons, axis=1),
        edited=edited,
        limit=float(np.abs(values).max(initial=0)) or 1.0,
        name=name,
    )


def draw_layer_bins(info: LayerBins) -> go.Figure:
    """The bins as a heatmap over the neurons' index; a dot marks a bin with edited neurons, if not all have some."""
    layers, count = info.scores.shape
    if not count:
        return draw_no_neurons()
    cell = max(9.0, min(26.0, 330 / layers))
    middles = ((info.edges[:-1] + info.edges[1:] - 1) / 2).astype(np.float32)
    title = plain(f"{info.name}: the largest in each bin", width=38)
    figure = go.Figure(
        go.Heatmap(
            x=info.edges.astype(np.float32) - 0.5,
            y=np.arange(layers, dtype=np.float32),
            z=info.scores,
            text=_hovers(info),
            hovertemplate="%{text}<extra></extra>",
            customdata=info.labels,
            colorscale=DIVERGING,
            zmin=-info.limit,
            zmax=info.limit,
            ygap=1,
            colorbar=bar_above(title, (-info.limit, 0, info.limit)),
        )
    )
    some = info.edited > 0
    name = f"bin with edited neurons ({int(info.edited.sum()):,} in all)"
    if some.any():
        at = np.argwhere(some)
        figure.add_scatter(
            x=middles[at[:, 1]],
            y=at[:, 0].astype(np.float32),
            mode="markers",
            marker={**EDITED, "size": 4 if cell > 12 else 3, "line": {"color": "white", "width": 0.7}},
            hoverinfo="skip",
            name=name,
            visible=True if some.mean() <= 0.5 else "legendonly",
            showlegend=True,
        )
    plot = max(cell * layers, 60.0)
    legend, below = legend_below([name] if some.any() else [], plot, columns=1)
    top = TOP + 17 * title.count("<br>")
    figure.update_layout(
        template=HOUSE,
        annotations=[x_title("neuron"), y_title("layer", away=38)],
        height=top + round(plot) + below,
        margin={"t": top, "b": below, "l": 54, "r": 16, "autoexpand": False},
        legend=legend,
        xaxis={
            "range": [-0.5, float(info.edges[-1]) - 0.5],
            "showgrid": False,
            "nticks": 5,
            "tickangle": 0,
            "tickformat": ",d",
        },
        yaxis={
            "range": [layers - 0.5, -0.5],
            "tickmode": "linear",
            "tick0": 0,
            "dtick": tick_step(layers),
            "showgrid": False,
        },
    )
    return figure


def _hovers(info: LayerBins) -> list[list[str]]:
    """Which neuron a bin shows, of which it is the largest, and how many there are edited."""
    found = []
    for layer, labels in enumerate(info.labels):
        row = []
        for i, label in enumerate(labels):
            first, last = int(info.edges[i]), int(info.edges[i + 1]) - 1
            lam = "" if info.lam is None else f", λ {info.lam[layer, i]:+.3g}"
            edited = "" if info.lam is None else f"; {info.edited[layer, i]} of {last - first + 1} edited"
            row.append(f"{label}, score {info.scores[layer, i]:+.3g}{lam}<br>largest of neurons {first} to {last}{edited}")
        found.append(row)
    return found
