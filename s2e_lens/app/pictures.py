"""The page's figures: which picture of the layers below shows what. Nothing is drawn here."""

from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go

from s2e_lens.app.settings import lam_of
from s2e_lens.app.workspace import Ready
from s2e_lens.results import Edit
from s2e_lens.visualizers.style import HOUSE, plain, write_html
from s2e_lens.visualizers import draw_head_heatmap, draw_neuron_ranking, head_heatmap_info, neuron_ranking_info

NEURONS = 20
"""Neurons of the ranking."""


def heads(ready: Ready, edit: Edit, *, of: str) -> go.Figure:
    """Layer by head: the score, or λ; edited heads are marked."""
    lam = lam_of(edit, "attn", ready.basis)
    values, name = (lam, "λ") if of == "lam" else (ready.basis.attn.g, f"{ready.key[3]} score")
    return draw_head_heatmap(head_heatmap_info(values, edited=lam, name=name))


def neurons(ready: Ready, edit: Edit, *, of: str) -> go.Figure:
    """The neurons' scores, edited ones marked: the first ones, ranked curves, or all in bins by layer."""
    lam, scores, name = lam_of(edit, "mlp", ready.basis), ready.basis.mlp.g, f"{ready.key[3]} score"
    return draw_neuron_ranking(neuron_ranking_info(scores, k=NEURONS, lam=lam, name=name))


def distribution(edit):
    return empty()


def dose(ready, edit):
    return empty()


def geometry(ready):
    return empty(), empty()


def lens(ready):
    return empty()


def next_token(found):
    return empty()


def firing_view(ready, edit, ids):
    return ""


def reading_view(found, label):
    from s2e_lens.app import views
    return views.ablation(found, label)


def empty(text: str = "") -> go.Figure:
    """A figure of nothing, with a word about why."""
    figure = go.Figure()
    if text:
        figure.add_annotation(text=plain(text, width=60), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    hidden = {"visible": False}
    return figure.update_layout(template=HOUSE, height=120, xaxis=hidden, yaxis=hidden)


def page(drawn, *, title: str) -> str:
    """A figure as a page of its own that needs no network."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.html"
        write_html(go.Figure(drawn), path, title=title)
        return path.read_text(encoding="utf-8")
