"""The direct path from a write at a site to the logits, with the norms' scales held fixed.

A write w at a site reaches the logits through the blocks above it, and directly. The direct path alone is linear once the
scales of the norms that it passes are held fixed (frozen)::

    logits(w) = m_logit * W_Uᵀ γ_f ⊙ c_f(m_resid * γ_post ⊙ c_post(w)) * factor

γ_f is the final norm's gain, γ_post that of the norm between a raw output and the residual where the family has one (Gemma-2,
Gemma-3, OLMo-2), c takes the mean away in a LayerNorm and does nothing in an RMSNorm, and m are a family's own multipliers (1 in
most). ``factor`` is 1 / (scale_post * scale_final), the frozen scales, measured on texts by :func:`measure_scales`. Left out:
the final norm's bias and the unembedding's, which no write changes; a soft cap of the logits (Gemma-2), whose slope is 1 at small
logits and less elsewhere; and all that later blocks make of the write. Nothing comes after the last MLP: there, with the scales
held fixed, the map is the whole change. Elsewhere it is the direct path only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_means, check_measured_on
from s2e_lens.errors import ModelError, ShapeError
from s2e_lens.models import LensModel, Norm, SiteFn
from s2e_lens.readout.tokens import TokenValue, ranked
from s2e_lens.results import Component, Directions, Means, Place, Site

LOGITS = 16_000_000
"""How many logits are computed at once (64 MB)."""


@dataclass(frozen=True)
class Scales:
    """1 / (scale_post * scale_final) of every place, averaged over positions of some texts."""

    factors: Mapping[Place, float]
    positions: int
    """How many positions were measured."""


@dataclass(frozen=True)
class TokenLens:
    """The tokens that a write promotes and suppresses most, each list strongest first.

    Values are logits relative to the mean over the vocabulary: a shift of all logits changes no probability.
    """

    promoted: tuple[TokenValue, ...]
    suppressed: tuple[TokenValue, ...]


@dataclass(frozen=True)
class LogitLens:
    """The lens of every steering vector; a place whose vector is zero has none."""

    lenses: Mapping[Place, TokenLens]
    n_layers: int
    measured: bool
    """Whether strengths are logits at scales measured on texts; else they are relative, at scales of 1."""

    def __getitem__(self, place: Place) -> TokenLens:
        return self.lenses[place]


def measure_scales(model: LensModel, texts: Sequence[Sequence[int]], *, last_only: bool = False) -> Scales:
    """The scales of the norms on the direct path, as the model reads some texts.

    The average is over positions: the direct effect of a constant write, averaged over them, is then exact. The first position
    of a text is left out where there are others: many models keep a residual there that is many times as long.

    Args:
        model: the model.
        texts: token ids of one or more texts.
        last_only: take the last position of each text, the one that predicts the next token.

    Raises:
        ModelError: for no text, or one that is empty, too long or not of this vocabulary.
    """
    if not texts:
        raise ModelError("0 texts came to measure the scales of the norms on; give at least one.")
    final, posts = model.final_norm, _post_norms(model)
    sums, count = dict.fromkeys(model.shapes.places, 0.0), 0
    for ids in texts:
        scales: dict[Place, Tensor] = {}

        def keep(place: Place, norm: Norm, scales: dict[Place, Tensor] = scales) -> SiteFn:
            return lambda x, y: scales.__setitem__(place, norm.scale(y[0].cpu()))

        with model.intercept({place: keep(place, norm) for place, norm in posts.items()}):
            last = final.scale(model.residuals(ids)[-1])
        chosen = slice(-1, None) if last_only or len(ids) == 1 else slice(1, None)
        for place in sums:
            sums[place] += float((1 / (last * scales.get(place, 1.0)))[chosen].double().sum())
        count += len(last[chosen])
    return Scales({place: total / count for place, total in sums.items()}, count)


def direct_logits(
    model: LensModel, writes: Float[Tensor, "*batch d_model"], site: Site, layer: int, *, scales: Scales | None = None
) -> Float[Tensor, "*batch d_vocab"]:
    """What writes at a site add to the logits along the direct path; see the module for the formula. Linear in ``writes``.

    Args:
        model: the model.
        writes: vectors that are added to the site's raw output.
        site: ``attn`` or ``mlp``.
        layer: the layer.
        scales: the frozen scales; without them all are 1, and the result is relative.

    Raises:
        ShapeError: if the writes are not as wide as the model.
        ModelError: for a place that is not there, or an unembedding or a norm that cannot be read.
    """
    if (site, layer) not in model.shapes.places:
        raise ModelError(f"{site} of layer {layer} is not in this model, which has layers 0 to {model.shapes.n_layers - 1}.")
    if writes.shape[-1] != model.shapes.d_model:
        raise ShapeError(f"the writes have width {writes.shape[-1]}; {model.name} writes d_model={model.shapes.d_model}.")
    return model.unembed(_normed(model, writes, (site, layer), model.final_norm, scales))


def _post_norms(model: LensModel) -> dict[Place, Norm]:
    found = {place: model.post_norm(*place) for place in model.shapes.places}
    return {place: norm for place, norm in found.items() if norm is not None}


def _normed(
    model: LensModel, writes: Float[Tensor, "*batch d_model"], place: Place, final: Norm, scales: Scales | None
) -> Float[Tensor, "*batch d_model"]:
    """What reaches the unembedding of writes at a place."""
    post = model.post_norm(*place)
    written = writes.detach().float().cpu()
    written = written if post is None else post.linear(written)
    return final.linear(model.residual_scale * written) * (1.0 if scales is None else scales.factors[place])


def _lens(model: LensModel, logits: Float[Tensor, " d_vocab"], top: int) -> TokenLens:
    relative = logits - logits.mean()
    return TokenLens(ranked(model, relative, top), ranked(model, relative, top, largest=False))


def logit_lens(
    model: LensModel, directions: Directions, *, top: int = 10, scales: Scales | None = None, force: bool = False
) -> LogitLens:
    """The tokens that v̂ promotes and suppresses on its direct path through the unembedding, per site and layer.

    Args:
        model: the model.
        directions: v̂ per site and layer; a vector of length 1 is written, whatever ‖v‖.
        top: how many tokens of each kind.
        scales: makes the strengths logits, see :func:`measure_scales`. Without, the ranking is the same and strengths compare
            within a layer, and in families without post-norms across layers and sites.
        force: accept directions of other weights.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        ModelError: if fewer than 1 token is asked for, or the unembedding or a norm cannot be read.
    """
    check_measured_on(model, directions, force=force)
    final = model.final_norm
    units = {place: directions[place[0]].unit[place[1]] for place in model.shapes.places}
    normed = {place: _normed(model, unit, place, final, scales) for place, unit in units.items() if unit.any()}
    lenses, places = {}, list(normed)
    at_once = max(1, LOGITS // model.shapes.d_vocab)
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        for place, logits in zip(some, model.unembed(torch.stack([normed[each] for each in some])), strict=True):
            lenses[place] = _lens(model, logits, top)
    return LogitLens(lenses, model.shapes.n_layers, scales is not None)


def component_tokens(
    model: LensModel,
    component: Component | str,
    means: Means,
    *,
    top: int = 10,
    scales: Scales | None = None,
    force: bool = False,
) -> TokenLens:
    """The tokens that a head or neuron promotes and suppresses on its direct path, writing what it writes on average, W x̄.

    A head writes W_Oᵀ x̄, a neuron x̄ W_out (so its sign is that of x̄). A component that is silent on average has no average
    write: a neuron then shows W_out, and a head nothing.

    Args:
        model: the model.
        component: a head or neuron, or its label.
        means: x̄.
        top: how many tokens of each kind.
        scales: as in :func:`logit_lens`.
        force: accept means of other weights.

    Raises:
        ModelError: for a component that is not there, or as :func:`logit_lens`.
        MismatchError: if the means were taken on other weights, unless ``force``.
    """
    check_means(model, means, force=force)
    site, layer, index = model.shapes.locate(component)
    mean = means.inputs(site)[layer, index].float()
    if site == "mlp" and not mean.any():
        mean = torch.ones(1)
    W = model.weight(site, layer)[index].detach().float().cpu()
    logits = direct_logits(model, mean @ W, site, layer, scales=scales)
    return _lens(model, logits, top) if mean.any() else TokenLens((), ())
