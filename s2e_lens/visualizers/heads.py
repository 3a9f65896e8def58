"""Scores of all heads as a heatmap: layers from the top down, heads across, edited heads marked."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from torch import Tensor

from s2e_lens.errors import ShapeError
from s2e_lens.results import component_label
from s2e_lens.visualizers.labels import NARROW
from s2e_lens.visualizers.style import DIVERGING, EDITED, HOUSE, TOP, as_matrix, bar_above, plain, tick_step, x_title, y_title

_LEFT, _RIGHT = 54, 20
LEAST_DISC = 12.0
"""In cells of fewer pixels a disc would hide the colour; they get an outline."""


@dataclass(frozen=True, eq=False)
class HeadHeatmap:
    """What a heatmap of heads shows."""

    scores: Float[np.ndarray, "layer head"]
    edited: Bool[np.ndarray, "layer head"]
    lam: Float[np.ndarray, "layer head"] | None
    """λ of each head; None where it is only known which heads are edited, or where nothing is."""
    limit: float
    """The colours run from -limit to +limit: white is 0."""
    name: str
    colour: Literal["score", "lam"] = "score"
    """What the colours are; the other one is in the hover."""

    @property
    def values(self) -> Float[np.ndarray, "layer head"]:
        """What the colours show."""
        return self.scores if self.colour == "score" or self.lam is None else self.lam

    @property
    def marks(self) -> list[tuple[int, int]]:
        """(layer, head) of the edited heads."""
        return [(int(layer), int(head)) for layer, head in np.argwhere(self.edited)]

    @property
    def labels(self) -> list[list[str]]:
        """``L5H3`` of each head, by layer."""
        layers, heads = self.scores.shape
        return [[component_label("attn", layer, head) for head in range(heads)] for layer in range(layers)]


def head_heatmap_info(
    scores: Float[Tensor, "layer head"],
    *,
    edited: Float[Tensor, "layer head"] | Bool[Tensor, "layer head"] | None = None,
    name: str,
    colour: Literal["score", "lam"] = "score",
) -> HeadHeatmap:
    """What a heatmap of these scores shows.

    Args:
        scores: one per head.
        edited: λ of each head (0 means that it is left alone), or True for each edited head.
        name: what the scores are.
        colour: ``lam`` colours each head by its λ, and tells the score in the hover.

    Raises:
        ShapeError: if there are no heads, the shapes differ, a value is not finite, or λ is to be shown and was not given.
    """
    values = as_matrix(scores, what="the scores of heads")
    if values.shape[1] == 0:
        raise ShapeError(f"the scores of heads came with shape {list(scores.shape)}; at least one head is needed.")
    lam = None if edited is None else as_matrix(edited, what="the edits of heads", like=values.shape)
    known = lam if edited is not None and edited.is_floating_point() else None
    if colour == "lam" and known is None:
        raise ShapeError("λ is to be shown, and no λ of the heads came: give edited=, a float tensor [layer, head].")
    shown = values if colour == "score" or known is None else known
    return HeadHeatmap(
        scores=values,
        edited=np.zeros(values.shape, dtype=bool) if lam is None else lam != 0,
        lam=known,
        limit=float(np.abs(shown).max()) or 1.0,
        name=name,
        colour=colour,
    )


def draw_head_heatmap(info: HeadHeatmap) -> go.Figure:
    """The heatmap, as high as its cells need and as wide as the page.

    A disc of at most a third of its cell marks an edited head. Where cells are small, an outline in the gaps between them does.
    """
    layers, heads = info.scores.shape
    cell = max(7.0, min(48.0, 360 / max(layers, heads)))
    plot = max(cell * layers, 60.0)
    narrowest = min(plot / layers, (NARROW - _LEFT - _RIGHT) / heads)
    title = plain(info.name if info.colour == "score" else "λ", width=38)
    names = ("score", "λ") if info.colour == "score" else ("λ", plain(info.name))
    shown = f"%{{text}}, {names[0]} %{{z:+.3~g}}" + ("" if info.lam is None else f", {names[1]} %{{customdata:+.3~g}}")
    figure = go.Figure(
        go.Heatmap(
            z=info.values,
            text=info.labels,
            customdata=info.lam if info.colour == "score" else info.scores,
            hovertemplate=shown + "<extra></extra>",
            colorscale=DIVERGING,
            zmin=-info.limit,
            zmax=info.limit,
            xgap=1,
            ygap=1,
            colorbar=bar_above(title, (-info.limit, 0, info.limit)),
        )
    )
    if info.marks:
        figure.add_scatter(
            **_marks(info, narrowest),
            hoverinfo="skip",
            name=f"edited: {len(info.marks)} of {layers * heads:,}",
            showlegend=True,
        )
    # Fixed margins: left to itself, plotly would add the height of the colour bar twice.
    top = TOP + 26 + 17 * title.count("<br>")
    ticks = {"tickmode": "linear", "tick0": 0, "tickangle": 0, "showgrid": False}
    figure.update_layout(
        annotations=[x_title("head"), y_title("layer", away=38)],
        template=HOUSE,
        height=round(plot + top + 48),
        margin={"t": top, "b": 48, "l": _LEFT, "r": _RIGHT, "autoexpand": False},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        xaxis={
            "range": [-0.5, heads - 0.5],
            "dtick": tick_step(heads),
            **ticks,
        },
        yaxis={
            "range": [layers - 0.5, -0.5],
            "dtick": tick_step(layers),
            **ticks,
        },
    )
    return figure


def _marks(info: HeadHeatmap, cell: float) -> dict[str, Any]:
    """Discs or outlines of the edited heads, in cells of so many pixels in the narrowest figure."""
    heads, layers = (np.array([mark[i] for mark in info.marks], dtype=np.float32) for i in (1, 0))
    if cell < LEAST_DISC:
        across = np.array([-0.5, 0.5, 0.5, -0.5, -0.5, np.nan], dtype=np.float32)
        down = np.array([-0.5, -0.5, 0.5, 0.5, -0.5, np.nan], dtype=np.float32)
        corners = {"x": (heads[:, None] + across).ravel(), "y": (layers[:, None] + down).ravel()}
        return {**corners, "mode": "lines", "line": {"color": "black", "width": 1}}
    size = min(9.0, cell / 3)
    if info.colour == "lam":  # the colour says it already; small λ are pale
        size = size / 2 + 1
    return {"x": heads, "y": layers, "mode": "markers", "marker": {**EDITED, "size": size}}
