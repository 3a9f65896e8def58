"""The neurons of largest score, as bars: largest on top, coloured by sign, edited ones marked."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from s2e_lens.errors import ShapeError
from s2e_lens.results import component_label
from s2e_lens.visualizers.style import EDITED, HOUSE, NEGATIVE, POSITIVE, as_matrix, plain


@dataclass(frozen=True, eq=False)
class NeuronRanking:
    """The first neurons of a ranking by magnitude, largest first."""

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    neurons: tuple[int, ...]
    scores: Float[np.ndarray, " rank"]
    lam: Float[np.ndarray, " rank"] | None
    """λ of these neurons; None where no edit was given."""
    total: int
    """How many neurons were ranked; 0 for a mixture of experts."""
    name: str

    @property
    def edited(self) -> list[str]:
        """The labels of the edited ones."""
        return [] if self.lam is None else [label for label, lam in zip(self.labels, self.lam, strict=True) if lam != 0]


def neuron_ranking_info(
    scores: Float[Tensor, "layer neuron"],
    *,
    k: int = 20,
    lam: Float[Tensor, "layer neuron"] | None = None,
    name: str,
) -> NeuronRanking:
    """The k neurons of largest magnitude (all, where there are fewer). Ties keep the order layer, index.

    Args:
        scores: one per neuron; [layer, 0] for a mixture of experts.
        k: how many.
        lam: λ of each neuron; 0 means that it is left alone.
        name: what the scores are.

    Raises:
        ShapeError: if there are no layers, the shapes differ, a value is not finite, or k is below 1.
    """
    if k < 1:
        raise ShapeError(f"a ranking of {k} neurons was asked for; k must be 1 or more.")
    values = as_matrix(scores, what="the scores of neurons")
    edits = None if lam is None else as_matrix(lam, what="λ of neurons", like=values.shape).ravel()
    order = np.argsort(-np.abs(values).ravel(), kind="stable")[:k]
    places = [divmod(int(i), values.shape[1]) for i in order]
    return NeuronRanking(
        labels=tuple(component_label("mlp", layer, neuron) for layer, neuron in places),
        layers=tuple(layer for layer, _ in places),
        neurons=tuple(neuron for _, neuron in places),
        scores=values.ravel()[order],
        lam=None if edits is None else edits[order],
        total=values.size,
        name=name,
    )


def neuron_table(info: NeuronRanking) -> pd.DataFrame:
    """The ranking as a table: rank (from 1), label, layer, neuron, score; with an edit also lam (λ) and edited."""
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(info.labels) + 1),
            "label": list(info.labels),
            "layer": np.array(info.layers, dtype=np.int64),
            "neuron": np.array(info.neurons, dtype=np.int64),
            "score": info.scores.astype(np.float64),
        }
    )
    return table if info.lam is None else table.assign(lam=info.lam.astype(np.float64), edited=info.lam != 0)


def draw_neuron_ranking(info: NeuronRanking) -> go.Figure:
    """The bars; without neurons an empty figure that says why."""
    if not info.labels:
        return draw_no_neurons()
    count = len(info.labels)
    places = np.arange(count, dtype=np.float32)
    shown = "%{text}, score %{x:+.3~g}" + ("" if info.lam is None else ", λ %{customdata:+.3~g}")
    figure = go.Figure(
        go.Bar(
            x=info.scores,
            y=places,
            text=info.labels,
            textposition="none",
            customdata=info.lam,
            hovertemplate=shown + "<extra></extra>",
            orientation="h",
            marker={"color": [POSITIVE if score >= 0 else NEGATIVE for score in info.scores.tolist()], "line": {"width": 0}},
            showlegend=False,
        )
    )
    if info.edited:
        chosen = np.array([label in set(info.edited) for label in info.labels])
        figure.add_scatter(
            x=info.scores[chosen],
            y=places[chosen],
            mode="markers",
            marker={**EDITED, "size": 9},
            hoverinfo="skip",
            cliponaxis=False,
            name=f"edited: {len(info.edited)} of {count}",
            showlegend=True,
        )
    figure.update_layout(
        template=HOUSE,
        height=20 * count + 100,
        bargap=0.25,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        xaxis={"title": {"text": plain(info.name, width=40)}, "zeroline": True, "zerolinecolor": "#666666", "nticks": 6},
        yaxis={
            "range": [count - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": places,
            "ticktext": info.labels,
            "showgrid": False,
            "title": {"text": f"neuron (top {count} of {info.total:,})"},
        },
    )
    return figure


def draw_no_neurons() -> go.Figure:
    """A figure that says why there is nothing to show."""
    figure = go.Figure()
    figure.add_annotation(
        text="No neurons to show:<br>this model's MLPs are mixtures of experts,<br>whose neurons are not edited one by one.",
        showarrow=False,
        font={"size": 13},
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
    )
    hidden = {"visible": False}
    figure.update_layout(template=HOUSE, height=140, xaxis=hidden, yaxis=hidden)
    return figure
