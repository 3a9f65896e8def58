"""One text, token by token: what is written along a direction, when an edit fires, what a component does, what comes next.

Each reads the model as it is at the moment: also inside ``with steered(...)`` or ``with edited(...)``. Weights inside
``edited`` are not those that directions and edits were measured on: give ``force=True`` there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_measured_on
from s2e_lens.editor.apply import check_editable
from s2e_lens.errors import PlanError
from s2e_lens.models import LensModel, SiteFn
from s2e_lens.precision import exact
from s2e_lens.readout.tokens import TokenValue, ranked
from s2e_lens.results import SITES, Brief, Component, Directions, Edit, Place, Site


@dataclass(frozen=True, eq=False, repr=False)
class NextTokens(Brief):
    """What comes next after a text."""

    top: tuple[TokenValue, ...]
    """The most probable tokens, with their probabilities."""
    probabilities: Float[Tensor, " d_vocab"]


def projections(
    model: LensModel,
    ids: Sequence[int],
    directions: Directions,
    *,
    of: Literal["output", "residual"] = "output",
    start: int | None = None,
    force: bool = False,
) -> dict[Site, Float[Tensor, "layer pos"]]:
    """y·v̂ at each site and layer: how far its raw output points along its steering vector, at every token.

    Args:
        model: the model.
        ids: one text.
        directions: v̂ per site and layer.
        of: ``output`` projects the site's own raw output y; ``residual`` the residual stream after the layer's block.
        start: where a response starts, for interventions that tell prompt from response; without it, all is prompt.
        force: accept directions of other weights, such as those of the model before ``with edited(...)``.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        ModelError: for a text that is empty, too long or not of this vocabulary.
    """
    check_measured_on(model, directions, force=force)
    if of == "residual":
        residuals = model.residuals(ids, start=start)
        along: dict[Site, Tensor] = {site: einsum(residuals, directions[site].unit, "l p d, l d -> l p") for site in SITES}
        return along
    found: dict[Site, Tensor] = {site: torch.zeros(model.shapes.n_layers, len(ids)) for site in SITES}
    _watch(model, ids, start, projecting(directions, found))
    return found


def projecting(directions: Directions, found: dict[Site, Float[Tensor, "layer pos"]]) -> dict[Place, SiteFn]:
    """Functions that write y·v̂ of a text's one row into ``found`` as the model runs."""

    def keep(site: Site, layer: int) -> SiteFn:
        unit = directions[site].unit[layer]

        def read(x: Tensor, y: Tensor) -> None:
            with exact(y.device):
                found[site][layer] = (y[0].float() @ unit.to(y.device)).cpu()

        return read

    return {(site, layer): keep(site, layer) for site in SITES for layer in range(len(directions[site].unit))}


def firings(
    model: LensModel,
    ids: Sequence[int],
    edit: Edit,
    *,
    term: int | None = None,
    sites: Sequence[Site] = SITES,
    start: int | None = None,
    force: bool = False,
) -> dict[Site, Float[Tensor, "layer component pos"]]:
    """λ_i k_i·x_i: how hard the edit of each component pushes along u at every token; 0 where it is not edited.

    The edit adds Σ_i firings_i u to a site's raw output. An edit of several terms (a sum of behaviours) fires along several
    directions: its terms are added up where they share u, and must be read one by one with ``term`` where they do not.

    Args:
        model: the model; x is what enters its projections as it is, edited or not.
        ids: one text.
        edit: the edit to read, whether it is applied or not.
        term: which term of each site to read.
        sites: which sites to read (neurons of a large model take n_layers * d_mlp * 4 bytes a token).
        start: as in :func:`projections`.
        force: as in :func:`projections`.

    Returns:
        per site that the edit has terms for, [layer, component, pos].

    Raises:
        PlanError: if terms of different directions would be added up, or the term is not there.
        MismatchError: if the edit was planned on other weights, unless ``force``.
        ModelError: for a text that is empty, too long or not of this vocabulary.
    """
    check_editable(model, edit, force=force)
    factors: dict[Site, Tensor] = {site: _readings(edit, site, term) for site in sites if edit[site]}
    found: dict[Site, Tensor] = {each: torch.zeros(*factors[each].shape[:2], len(ids)) for each in SITES if each in factors}

    def keep(site: Site, layer: int) -> SiteFn:
        def read(x: Tensor, y: Tensor) -> None:
            with exact(x.device):
                fired = einsum(x[0].float(), factors[site][layer].to(x.device), "pos i d_in, i d_in -> i pos")
            found[site][layer] = fired.cpu()

        return read

    _watch(model, ids, start, {(site, layer): keep(site, layer) for site, layer in edit.touched() if site in factors})
    return found


def _readings(edit: Edit, site: Site, term: int | None) -> Float[Tensor, "layer component d_in"]:
    """λ k of a site, summed over its terms or of one of them."""
    terms = edit[site]
    if term is not None:
        if not 0 <= term < len(terms):
            raise PlanError(f"the edit has terms 0 to {len(terms) - 1} at {site}; got {term}.")
        terms = (terms[term],)
    if not all(torch.equal(each.u, terms[0].u) for each in terms):
        raise PlanError(
            f"the edit's {len(terms)} terms at {site} write along different directions: their firings do not add up to one "
            "number. Read them one by one: term=0, term=1, …"
        )
    return torch.stack([each.lam[..., None] * each.k for each in terms]).sum(dim=0).float()


def activations(
    model: LensModel, ids: Sequence[int], components: Sequence[Component | str], *, start: int | None = None
) -> Float[Tensor, "component pos"]:
    """A neuron's activation (its post, signed), or for a head the size of what it writes, ‖z W_O‖, at every token.

    Args:
        model: the model.
        ids: one text.
        components: heads and neurons, or their labels.
        start: as in :func:`projections`.

    Raises:
        ModelError: for a component that is not there, or a text that is empty, too long or not of this vocabulary.
    """
    where = [model.shapes.locate(each) for each in components]
    found = torch.zeros(len(where), len(ids))

    def keep(site: Site, layer: int) -> SiteFn:
        mine = [(row, index) for row, (s, at, index) in enumerate(where) if (s, at) == (site, layer)]

        def read(x: Tensor, y: Tensor) -> None:
            for row, index in mine:
                entered = x[0, :, index].float()
                if site == "attn":
                    with exact(x.device):
                        entered = (entered @ model.weight(site, layer)[index].detach().float()).norm(dim=-1, keepdim=True)
                found[row] = entered[:, 0].cpu()

        return read

    _watch(model, ids, start, {(site, layer): keep(site, layer) for site, layer, _ in where})
    return found


def next_tokens(model: LensModel, ids: Sequence[int], *, top: int = 10) -> NextTokens:
    """The probability of every token after a text, softmax of the model's own logits (soft cap and all).

    Works inside ``steered``, ``edited`` and ``edit_as_hooks``. Interventions on response positions act on the last position,
    which predicts the response, as they do while generating.

    Raises:
        ModelError: for a text that is empty, too long or not of this vocabulary, or fewer than 1 token asked for.
    """
    logits = model.logits(*model.row(ids), starts=[len(ids)], reduce=lambda found: found[:, -1].float().cpu())[0]
    probabilities = logits.softmax(dim=-1)
    return NextTokens(ranked(model, probabilities, top), probabilities)


def _watch(model: LensModel, ids: Sequence[int], start: int | None, fns: dict[Place, SiteFn]) -> None:
    """Run the blocks over one text with functions that look at what enters and leaves the sites."""
    row = model.row(ids)
    with model.intercept(fns), model.reading(ids, start):
        model.run(*row)
