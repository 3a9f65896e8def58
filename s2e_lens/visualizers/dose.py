"""How hard each component pushes: its dose λ k·x̄ against its score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2e_lens.errors import MismatchError, ShapeError
from s2e_lens.results import SITES, Attribution, Edit, Means, Site, component_label
from s2e_lens.visualizers.labels import NARROW, place_labels, to_pixels
from s2e_lens.visualizers.style import HOUSE, PALETTE, as_matrix, legend_below, plain, x_title, y_title

MOST = 1000
"""So many components of a site are drawn: those of largest dose and score first."""
_LEFT, _RIGHT, _PLOT = 76, 18, 300.0
_LOOK = {
    "attn": {"color": PALETTE[0], "symbol": "circle", "size": 9, "opacity": 0.85},
    "mlp": {"color": PALETTE[1], "symbol": "diamond", "size": 6, "opacity": 0.6},
}
_NAMES = {"attn": "heads", "mlp": "neurons"}


@dataclass(frozen=True, eq=False)
class SiteDose:
    """The edited components of one site, by dose, the largest magnitude first."""

    site: Site
    layers: Int[np.ndarray, " component"]
    indices: Int[np.ndarray, " component"]
    scores: Float[np.ndarray, " component"]
    lam: Float[np.ndarray, " component"]
    doses: Float[np.ndarray, " component"]
    """λ k·x̄: what the edit makes the component write along v̂ on average, in units of the residual stream."""
    total: int
    """All components of the site, edited or not."""

    @property
    def labels(self) -> list[str]:
        """``L5H3`` of each."""
        return [component_label(self.site, int(i), int(j)) for i, j in zip(self.layers, self.indices, strict=True)]

    @property
    def sum(self) -> float:
        """The dose of the whole site, over all layers."""
        return float(self.doses.sum())

    @property
    def drawn(self) -> Bool[np.ndarray, " component"]:
        """Which ones a figure shows: all, or half of :data:`MOST` by dose and the rest by score."""
        chosen = np.zeros(len(self.doses), dtype=bool)
        chosen[: MOST // 2] = True
        rest = np.argsort(-np.abs(self.scores) * ~chosen, kind="stable")
        chosen[rest[: MOST - int(chosen.sum())]] = True
        return chosen


@dataclass(frozen=True, eq=False)
class Dose:
    """What the figure of doses shows; a site that is not edited is left out."""

    sites: tuple[SiteDose, ...]
    score: str


def dose_info(edit: Edit, means: Means, attribution: Attribution) -> Dose:
    """λ_i k_i·x̄_i of every edited component. No model is needed.

    Args:
        edit: of one behaviour (one term per site).
        means: that the directions come from; x̄ is the mean of both classes.
        attribution: scores of the same model.

    Raises:
        MismatchError: if they come from different weights.
        ShapeError: if an edit of several terms came, nothing is edited, shapes differ, or a value is not finite.
    """
    hashes = {each.provenance.weight_hash for each in (edit, means, attribution)}
    if len(hashes) > 1:
        raise MismatchError(f"edit, means and attribution come from different weights: {', '.join(sorted(hashes))}.")
    found = tuple(_site(edit, means, attribution, site) for site in SITES if edit[site])
    if not any(len(each.doses) for each in found):
        raise ShapeError("the edit leaves every component as it is: there is no dose to show.")
    return Dose(tuple(each for each in found if len(each.doses)), attribution.score)


def _site(edit: Edit, means: Means, attribution: Attribution, site: Site) -> SiteDose:
    if len(edit[site]) > 1:
        raise ShapeError(
            f"the edit has {len(edit[site])} terms at {site}, one per behaviour, and a score belongs to one of them: "
            "show the edits one by one."
        )
    (term,) = edit[site]
    scores = as_matrix(attribution[site], what=f"the scores at {site}")
    x = means.inputs(site)
    if tuple(term.k.shape) != tuple(x.shape):
        raise ShapeError(f"k at {site} has shape {list(term.k.shape)}, the mean inputs {list(x.shape)}: another model's.")
    lam = as_matrix(term.lam, what=f"λ at {site}", like=scores.shape)
    doses = as_matrix(component_doses(term.lam, term.k, x), what=f"the doses at {site}", like=scores.shape)
    layers, indices = np.nonzero(lam)
    order = np.argsort(-np.abs(doses[layers, indices]), kind="stable")
    at = (layers[order], indices[order])
    return SiteDose(site, *at, scores[at], lam[at], doses[at], scores.size)


def component_doses(
    lam: Float[Tensor, "layer component"], k: Float[Tensor, "layer component d_in"], x: Float[Tensor, "layer component d_in"]
) -> Float[Tensor, "layer component"]:
    """λ_i k_i·x̄_i."""
    return lam.double().cpu() * torch.einsum("lci,lci->lc", k.double().cpu(), x.double().cpu())


def draw_dose(info: Dose, *, root: bool = True) -> go.Figure:
    """Dose (up) against score (across): heads are discs, neurons diamonds; the strongest are named where there is room.

    A few neurons often carry most of the dose, so it is drawn on an axis of its (signed) square root; the numbers on the axis are
    the doses themselves. ``root=False`` gives an even axis.
    """
    heights = [signed_root(each.doses) if root else each.doses for each in info.sites]
    across, up = _range([each.scores for each in info.sites]), _range(heights)
    figure = go.Figure()
    sides = iter(_sides(info, heights, across, up))
    for each, height in zip(info.sites, heights, strict=True):
        chosen = np.flatnonzero(each.drawn)
        labels = each.labels
        placed = [next(sides) for _ in chosen]
        figure.add_scatter(
            x=each.scores[chosen],
            y=height[chosen],
            mode="markers+text",
            marker={**_LOOK[each.site], "line": {"color": "white", "width": 0.5}},
            text=[labels[i] if side else "" for i, side in zip(chosen, placed, strict=True)],
            textposition=[side or "middle right" for side in placed],
            textfont={"size": 10, "color": _LOOK[each.site]["color"]},
            customdata=[[labels[i], f"{each.lam[i]:+.3g}", f"{each.doses[i]:+.3g}"] for i in chosen],
            hovertemplate="%{customdata[0]}, score %{x:+.3~g}, λ %{customdata[1]}<br>dose λ k·x̄ %{customdata[2]}<extra></extra>",
            name=_name(each),
            showlegend=True,
            cliponaxis=False,
        )
    legend, bottom = legend_below([_name(each) for each in info.sites], _PLOT, columns=1)
    line = {"zeroline": True, "zerolinecolor": "#888888"}
    figure.update_layout(
        template=HOUSE,
        annotations=[x_title(plain(f"{info.score} score", width=40)), y_title("dose λ k·x̄" + " (root axis)" * root, away=66)],
        height=14 + round(_PLOT) + bottom,
        margin={"t": 14, "b": bottom, "l": _LEFT, "r": _RIGHT, "autoexpand": False},
        legend=legend,
        xaxis={"range": across, "nticks": 6, **line},
        yaxis={"range": up, **_ticks(up, root=root), **line},
    )
    return figure


def _name(each: SiteDose) -> str:
    shown = int(each.drawn.sum())
    part = "" if shown == len(each.doses) else f"<br>({shown:,} of them drawn)"
    return f"{_NAMES[each.site]}: {len(each.doses):,} of {each.total:,} edited{part}"


def signed_root(values: Float[np.ndarray, " component"]) -> Float[np.ndarray, " component"]:
    """sign(x) √|x|."""
    return np.sign(values) * np.sqrt(np.abs(values))


def _range(values: Sequence[Float[np.ndarray, " _"]]) -> list[float]:
    low, high = min(0.0, *(float(v.min()) for v in values)), max(0.0, *(float(v.max()) for v in values))
    room = 0.07 * (high - low) or 0.1
    return [low - room, high + room]


def _ticks(up: Sequence[float], *, root: bool) -> dict[str, object]:
    """Numbers of the axis: on a root axis round doses that keep apart."""
    if not root:
        return {"nticks": 7}
    most = max(abs(each) for each in up) ** 2
    top = math.floor(math.log10(most))
    sizes = [step * 10.0**power for power in (top - 2, top - 1, top) for step in (1, 2, 5)]
    kept: list[float] = []
    for size in sorted(sizes, reverse=True):  # no two of them closer than a twelfth of the axis
        if not kept or math.sqrt(kept[-1]) - math.sqrt(size) > (up[1] - up[0]) / 12:
            kept.append(size)
    kept = [each for each in kept if math.sqrt(each) > (up[1] - up[0]) / 12]
    both = [-each for each in kept] + [0.0] + kept[::-1]
    shown = [each for each in both if up[0] <= math.copysign(math.sqrt(abs(each)), each) <= up[1]]
    return {
        "tickvals": signed_root(np.array(shown)).astype(np.float32),
        "ticktext": [f"{each:g}".replace("-", "\N{MINUS SIGN}") for each in shown],
    }


def _sides(
    info: Dose, heights: Sequence[Float[np.ndarray, " _"]], across: Sequence[float], up: Sequence[float]
) -> list[str | None]:
    """Where each component that is drawn is named, if anywhere: the largest doses, in their share of the range, first."""
    size = (float(NARROW - _LEFT - _RIGHT), _PLOT)
    marks = [
        to_pixels(each.scores[each.drawn], height[each.drawn], across, up, size)
        for each, height in zip(info.sites, heights, strict=True)
    ]
    points = np.concatenate(marks)
    texts = [label for each in info.sites for label, shown in zip(each.labels, each.drawn, strict=True) if shown]
    rank = np.concatenate([np.arange(len(each)) for each in marks])
    order = [int(i) for i in np.argsort(rank, kind="stable")[:60]]
    named = np.zeros(len(texts), dtype=bool)
    named[order] = True
    return place_labels(
        points,
        [text if use else "" for text, use in zip(texts, named, strict=True)],
        size=size,
        marks=points,
        order=order,
        font=10.0,
    )
