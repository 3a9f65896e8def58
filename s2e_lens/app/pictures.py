"""The page's figures: which picture of the layers below shows what. Nothing is drawn here."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import plotly.graph_objects as go

from s2e_lens import visualizers as v
from s2e_lens.app.settings import lam_of
from s2e_lens.app.workspace import Ready
from s2e_lens.errors import ShapeError
from s2e_lens.results import Attribution, Directions, Edit, Site

NEURONS = 20
"""Neurons of the ranking."""


def heads(ready: Ready, edit: Edit, *, of: str) -> go.Figure:
    """Layer by head: the score, or λ; edited heads are marked."""
    lam = lam_of(edit, "attn", ready.basis)
    values, name = (lam, "λ") if of == "lam" else (ready.basis.attn.g, _score(ready))
    return v.draw_head_heatmap(v.head_heatmap_info(values, edited=lam, name=name))


def neurons(ready: Ready, edit: Edit, *, of: str) -> go.Figure:
    """The neurons' scores, edited ones marked: the first ones, ranked curves, or all in bins by layer."""
    lam, scores, name = lam_of(edit, "mlp", ready.basis), ready.basis.mlp.g, _score(ready)
    if of == "curves":
        return v.draw_ranked_curves(v.ranked_curves_info(scores, lam=lam, name=name))
    if of == "bins":
        return v.draw_layer_bins(v.layer_bins_info(scores, lam=lam, name=name))
    return v.draw_neuron_ranking(v.neuron_ranking_info(scores, k=NEURONS, lam=lam, name=name))


def distribution(ready: Ready, edit: Edit, *, site: Site) -> go.Figure:
    """λ of every head at its place, or how many neurons of each layer have which λ."""
    if not edit.count(site):
        return empty("no head is edited" if site == "attn" else "no neuron is edited")
    return v.draw_edit_distribution(v.edit_distribution_info({ready.key[1].rsplit("/", 1)[-1]: edit}, site=site))


def dose(ready: Ready, edit: Edit) -> go.Figure:
    """λ k·x̄ of every edited component against its score."""
    basis = ready.basis
    scores = Attribution(basis.attn.g, basis.mlp.g, ready.key[3], basis.provenance)
    try:
        return v.draw_dose(v.dose_info(edit, ready.directions.means, scores))
    except ShapeError as error:  # nothing is edited, or the sum of several behaviours is
        return empty(str(error))


def norms(ready: Ready, known: dict[str, Directions]) -> go.Figure:
    """Length of v per layer and site, of this behaviour and of the others that were extracted."""
    return v.draw_direction_norms(v.geometry_info({ready.key[1]: ready.directions, **known}))


def cosines(ready: Ready, known: dict[str, Directions], *, between: Any) -> go.Figure:
    """Cosines between layers, sites or behaviours."""
    found = {ready.key[1]: ready.directions} if between == "layers" else {ready.key[1]: ready.directions, **known}
    if between == "behaviors" and len(found) < 2:
        return empty("Look at a second behaviour first: then both vectors are known.")
    return v.draw_direction_cosines(v.geometry_info(found), between=between)


def empty(text: str = "") -> go.Figure:
    """A figure of nothing, with a word about why."""
    figure = go.Figure()
    if text:
        words = v.style.plain(text, width=48)
        figure.add_annotation(text=words, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    hidden = {"visible": False}
    return figure.update_layout(template=v.HOUSE, height=120, xaxis=hidden, yaxis=hidden)


def page(drawn: dict[str, Any], *, title: str) -> str:
    """A figure as a page of its own that needs no network."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.html"
        v.write_html(go.Figure(drawn), path, title=title)
        return path.read_text(encoding="utf-8")


def _score(ready: Ready) -> str:
    return f"{ready.key[3]} score"


def lens(ready):
    return empty()


def next_token(found):
    return empty()


def firing_view(ready, edit, ids):
    return ""


def reading_view(found, label):
    from s2e_lens.app import views
    return views.ablation(found, label)
