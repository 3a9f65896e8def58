"""Ranked curves: how fast the scores of each layer's neurons fall off, one line per layer."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.colors import sample_colorscale
from torch import Tensor

from s2e_lens.results import component_label
from s2e_lens.visualizers.neurons import draw_no_neurons
from s2e_lens.visualizers.style import (
    HOUSE,
    SEQUENTIAL,
    TOP,
    as_matrix,
    bar_above,
    legend_below,
    plain,
    tick_step,
    x_title,
    y_title,
)

FIRST = 32
"""So many ranks are all kept."""
LATER = 96
"""So many more are kept of the others, evenly over the logarithm of the rank."""
PLOT = 260.0
"""Height of the plot in pixels."""


@dataclass(frozen=True, eq=False)
class RankedCurves:
    """|score| against rank within each layer, at ranks that show the curve's form."""

    ranks: Int[np.ndarray, " point"]
    """From 1: the first ones all, then ever fewer, and the last."""
    scores: Float[np.ndarray, "layer point"]
    """The (signed) score that has this rank by magnitude in its layer."""
    neurons: Int[np.ndarray, "layer point"]
    """Whose it is."""
    lam: Float[np.ndarray, "layer point"] | None
    edited: Int[np.ndarray, " layer"]
    """How many neurons of each layer are edited, whether or not they are among the points."""
    width: int
    """Neurons per layer; 0 for a mixture of experts."""
    name: str

    def label(self, layer: int, place: int) -> str:
        """``L5N1234`` of a point."""
        return component_label("mlp", layer, int(self.neurons[layer, place]))


def ranked_curves_info(
    scores: Float[Tensor, "layer neuron"], *, lam: Float[Tensor, "layer neuron"] | None = None, name: str
) -> RankedCurves:
    """The curves. Ties keep the order of the index.

    Args:
        scores: one per neuron; [layer, 0] for a mixture of experts.
        lam: λ of each neuron; 0 means that it is left alone.
        name: what the scores are.

    Raises:
        ShapeError: if there are no layers, the shapes differ, or a value is not finite.
    """
    values = as_matrix(scores, what="the scores of neurons")
    edits = None if lam is None else as_matrix(lam, what="λ of neurons", like=values.shape)
    ranks = _ranks(values.shape[1])
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, ranks - 1]
    return RankedCurves(
        ranks=ranks,
        scores=np.take_along_axis(values, order, axis=1),
        neurons=order,
        lam=None if edits is None else np.take_along_axis(edits, order, axis=1),
        edited=np.zeros(len(values), dtype=np.int64) if edits is None else np.count_nonzero(edits, axis=1),
        width=values.shape[1],
        name=name,
    )


def _ranks(width: int) -> Int[np.ndarray, " point"]:
    if width <= FIRST:
        return np.arange(1, width + 1)
    later = np.geomspace(FIRST, width, LATER).round().astype(np.int64)
    return np.unique(np.concatenate([np.arange(1, FIRST + 1), later]))


def draw_ranked_curves(info: RankedCurves) -> go.Figure:
    """One line per layer, dark (early) to light (late); thick where the neurons are edited. Ranks are on a logarithmic axis."""
    if not info.width:
        return draw_no_neurons()
    layers = len(info.scores)
    colours = [str(each) for each in sample_colorscale(list(SEQUENTIAL), list(np.linspace(0, 1, max(layers, 2))))]
    figure = go.Figure([_curve(info, layer, colours[layer]) for layer in range(layers)])
    if info.edited.any():
        figure.add_traces([_edited(info, layer, colours[layer]) for layer in range(layers) if info.edited[layer]])
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            line={"color": "#444444", "width": 3},
            name=_edited_name(info),
            showlegend=True,
        )
    step = tick_step(layers)
    numbers = range(0, layers, step)
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={
            "color": [0],
            "cmin": -0.5,
            "cmax": layers - 0.5,
            "colorscale": _steps(colours[:layers]),
            "colorbar": bar_above("layer", list(numbers), texts=[str(each) for each in numbers]),
            "showscale": True,
        },
        showlegend=False,
        hoverinfo="skip",
    )
    legend, below = legend_below([_edited_name(info)] if info.edited.any() else [], PLOT, columns=1)
    figure.update_layout(
        template=HOUSE,
        annotations=[
            x_title(f"rank in its layer (of {info.width:,})"),
            y_title(plain(f"|{info.name}|", width=40)),
        ],
        height=TOP + round(PLOT) + below,
        margin={"t": TOP, "b": below, "l": 66, "r": 16, "autoexpand": False},
        legend=legend,
        xaxis={
            "type": "log",
            "dtick": 1,
            "range": [-0.04, np.log10(max(info.width, 2)) + 0.04],
        },
        yaxis={"rangemode": "tozero", "nticks": 7},
    )
    return figure


def _edited_name(info: RankedCurves) -> str:
    return f"edited: {info.edited.sum():,} of {len(info.scores) * info.width:,}"


def _steps(colours: list[str]) -> list[tuple[float, str]]:
    """A colour scale of one even field per layer."""
    edges = np.linspace(0, 1, len(colours) + 1).tolist()
    return [(edge, colour) for i, colour in enumerate(colours) for edge in edges[i : i + 2]]


def _curve(info: RankedCurves, layer: int, colour: str) -> go.Scatter:
    lam = [""] * len(info.ranks) if info.lam is None else [f", λ {each:+.3g}" for each in info.lam[layer]]
    return go.Scatter(
        x=info.ranks.astype(np.float32),
        y=np.abs(info.scores[layer]),
        mode="lines",
        line={"color": colour, "width": 1.5},
        text=[
            f"{info.label(layer, i)}, rank {rank:,} in layer {layer}<br>score {info.scores[layer, i]:+.3g}{lam[i]}"
            for i, rank in enumerate(info.ranks)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=f"layer {layer}",
        showlegend=False,
    )


def _edited(info: RankedCurves, layer: int, colour: str) -> go.Scatter:
    """The thick part of a curve; a single edited neuron is a dot."""
    chosen = np.zeros(len(info.ranks), dtype=bool) if info.lam is None else info.lam[layer] != 0
    return go.Scatter(
        x=info.ranks.astype(np.float32),
        y=np.where(chosen, np.abs(info.scores[layer]), np.nan).astype(np.float32),
        mode="lines+markers",
        line={"color": colour, "width": 3},
        marker={"size": 4, "color": colour},
        connectgaps=False,
        hoverinfo="skip",
        name=f"edited in layer {layer}",
        showlegend=False,
    )
