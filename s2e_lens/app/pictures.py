"""The page's figures: which picture of the layers below shows what. Nothing is drawn here."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from s2e_lens import visualizers as v
from s2e_lens.app.settings import lam_of
from s2e_lens.app.workspace import Ready
from s2e_lens.errors import ShapeError
from s2e_lens.readout import NextTokens, firings, logit_effects, logit_lens, measure_scales, token_strings
from s2e_lens.results import Attribution, Directions, Edit, Site
from s2e_lens.visualizers.embedding import views_page
from s2e_lens.visualizers.lens import (
    draw_logit_effects,
    draw_logit_lens,
    draw_next_tokens,
    logit_effects_info,
    logit_lens_info,
    next_tokens_info,
)
from s2e_lens.visualizers.style import plain
from s2e_lens.visualizers.tokens import (
    attention_info,
    firing_info,
    firing_total_info,
    view_attention,
    view_token_values,
)

NEURONS = 20
"""Neurons of the ranking."""

LENS, EFFECTS = 5, 4
"""Tokens of the logit lens of each kind and layer, and of the logit effects."""

BUNDLE = "/circuitsvis.js"
"""Where the server has the source that token views share."""


def heads(ready: Ready, edit: Edit, *, of: str) -> go.Figure:
    """Layer by head: the score, or λ; edited heads are marked."""
    lam, colour = lam_of(edit, "attn", ready.basis), "lam" if of == "lam" else "score"
    return v.draw_head_heatmap(v.head_heatmap_info(ready.basis.attn.g, edited=lam, name=_score(ready), colour=colour))


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
        words = plain(text, width=48)
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


def lens(ready: Ready, *, site: Any) -> go.Figure:
    """The tokens that v̂ promotes and suppresses, layer by layer. Call it under the model's lock."""
    found = logit_lens(ready.model, ready.directions, top=LENS, force=True)
    return draw_logit_lens(logit_lens_info(found, site=site, top=LENS))


def next_token(found: Sequence[NextTokens]) -> go.Figure:
    """Next-token probabilities of the three."""
    names = ("as it is", "steered", "edited")
    return draw_next_tokens(next_tokens_info(dict(zip(names, found, strict=True))))


def effects(ready: Ready, edit: Edit, ids: Sequence[int], found: NextTokens) -> go.Figure:
    """What each edited component adds directly to the logits of the likeliest next tokens. Call it under the model's lock."""
    model, means = ready.model, ready.directions.means
    tokens = [each.id for each in found.top[:EFFECTS]]
    scales = measure_scales(model, [ids], last_only=True)
    return draw_logit_effects(logit_effects_info(logit_effects(model, edit, means, tokens, scales=scales, force=True)))


def firing_page(ready: Ready, edit: Edit, ids: Sequence[int]) -> str:
    """When the edit fires on a text, in all and component by component, as a page. Call it under the model's lock."""
    fired = firings(ready.model, ids, edit, force=True)
    tokens = token_strings(ready.model, ids)
    views = [view_token_values(info(tokens, fired)) for info in (firing_total_info, firing_info)]
    return views_page(*views, title="When the edit fires", bundle_file=BUNDLE)


def attention_page(tokens: Sequence[str], pattern: Float[Tensor, "query key"], label: str) -> str:
    """The attention pattern of a head, as a page.

    Raises:
        ShapeError: for a text that is too long to be drawn.
    """
    view = view_attention(attention_info(tokens, pattern[None], labels=[label], name=f"Attention of {label}"))
    return views_page(view, title=label, bundle_file=BUNDLE)
