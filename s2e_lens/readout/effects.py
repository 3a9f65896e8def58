"""Direct logit effects of an edit, component by component."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_means
from s2e_lens.editor.apply import check_editable
from s2e_lens.errors import ModelError
from s2e_lens.models import LensModel
from s2e_lens.readout.logits import Scales, direct_logits
from s2e_lens.readout.tokens import token_id, token_strings
from s2e_lens.results import SITES, Brief, Component, Edit, Means, Site


@dataclass(frozen=True, eq=False, repr=False)
class LogitEffects(Brief):
    """What each edited component adds to the logits of some tokens, directly and on its average input."""

    components: tuple[Component, ...]
    """The edited ones in the order of sites, layers and indices; the score is the dose Σ λ k·x̄."""
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    effects: Float[Tensor, "component token"]

    @property
    def total(self) -> Float[Tensor, " token"]:
        """The direct effect of the whole edit."""
        return self.effects.double().sum(dim=0).float()

    def strongest(self, count: int) -> list[int]:
        """Which components have the largest effect on any of the tokens, largest first."""
        if not len(self.components):
            return []
        return self.effects.abs().amax(dim=1).sort(descending=True, stable=True).indices[:count].tolist()


def logit_effects(
    model: LensModel, edit: Edit, means: Means, tokens: Sequence[int | str], *, scales: Scales, force: bool = False
) -> LogitEffects:
    """The direct logit effect of each edited component on some tokens: Σ_terms λ_i (k_i·x̄_i) logits(u), on average inputs.

    In logits, relative to the mean over the vocabulary, with the norms' scales frozen as measured
    (:func:`~s2e_lens.readout.logits.direct_logits` has the formula and what it leaves out). The effects of a place's components
    add up to the direct effect of what the edit adds there on average inputs.

    Args:
        model: the model.
        edit: the edit.
        means: x̄.
        tokens: ids, or tokens as they are written (``" sorry"``).
        scales: the frozen scales, :func:`~s2e_lens.readout.logits.measure_scales`.
        force: accept an edit and means of other weights.

    Raises:
        ModelError: for no token, or one that is not in the vocabulary.
        MismatchError: if the edit or the means belong to other weights, unless ``force``.
    """
    check_editable(model, edit, force=force)
    check_means(model, means, force=force)
    if not tokens:
        raise ModelError("0 tokens came to see the logit effects on; name at least one.")
    ids = [token_id(model, each) for each in tokens]
    components: list[Component] = []
    parts = [torch.zeros(0, len(ids))]
    for site in SITES:
        for layer in sorted({at for term in edit[site] for at in term.touched}):
            doses, effects = _effects(model, edit, means, site, layer, ids, scales)
            edited = torch.stack([term.lam[layer] != 0 for term in edit[site]]).any(dim=0).nonzero()[:, 0].tolist()
            components += [Component(site, layer, index, float(doses[index])) for index in edited]
            parts.append(effects[edited])
    return LogitEffects(tuple(components), tuple(ids), token_strings(model, ids), torch.cat(parts))


def _effects(
    model: LensModel, edit: Edit, means: Means, site: Site, layer: int, ids: list[int], scales: Scales
) -> tuple[Float[Tensor, " component"], Float[Tensor, "component token"]]:
    """Doses and effects of all components of a place."""
    average = means.inputs(site)[layer]
    doses = torch.stack([term.lam[layer] * (term.k[layer].double() * average).sum(dim=-1) for term in edit[site]])
    logits = direct_logits(model, torch.stack([term.u[layer] for term in edit[site]]), site, layer, scales=scales)
    relative = (logits - logits.mean(dim=-1, keepdim=True))[:, ids]
    return doses.sum(dim=0), (doses.T @ relative.double()).float()
