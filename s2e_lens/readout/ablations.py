"""What changes when components are taken out: the next token, every other position, and what is written along v̂."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_measured_on
from s2e_lens.effects import Intervention, intervene
from s2e_lens.models import LensModel
from s2e_lens.readout.texts import NextTokens, projecting
from s2e_lens.readout.tokens import ranked, token_strings
from s2e_lens.results import SITES, Brief, Component, Directions, Means, Site, component_label
from s2e_lens.steering import component_ablation


@dataclass(frozen=True)
class TokenChange:
    """A token's probability as the next one, before and after."""

    id: int
    token: str
    before: float
    after: float


@dataclass(frozen=True, eq=False, repr=False)
class AblationEffect(Brief):
    """What taking components out, all together, does to one text."""

    components: tuple[str, ...]
    before: NextTokens
    after: NextTokens
    kl: Float[Tensor, " pos"]
    """KL(before ‖ after) of the next-token distribution at every position, in nats; the last is the next token's."""
    changes: tuple[TokenChange, ...]
    """The tokens whose probability as the next one changes most, largest change first."""
    projections: dict[Site, Float[Tensor, "layer pos"]] | None
    """The change of y·v̂ at every site, layer and token, after minus before; None without directions."""


def ablation_effect(
    model: LensModel,
    ids: Sequence[int],
    components: Sequence[Component | str],
    *,
    means: Means | None = None,
    directions: Directions | None = None,
    top: int = 10,
    force: bool = False,
) -> AblationEffect:
    """The effect of ablating components at all positions of a text (:func:`~s2e_lens.steering.component_ablation`).

    Args:
        model: the model, also inside ``steered`` or ``edited``.
        ids: one text.
        components: heads and neurons, or their labels; they are ablated together.
        means: for mean ablation; without them, zero ablation.
        directions: to see also what changes downstream along v̂.
        top: how many tokens.
        force: accept means and directions of other weights.

    Raises:
        ModelError: for no component or one that is not there, or a text that is empty, too long or not of this vocabulary.
        MismatchError: if means or directions belong to other weights, unless ``force``.
    """
    if directions is not None:
        check_measured_on(model, directions, force=force)
    ablation = component_ablation(model, components, means, force=force)
    before, along_before = _measure(model, ids, None, directions)
    after, along_after = _measure(model, ids, ablation, directions)
    first, second = (each[-1].exp() for each in (before, after))
    largest = (second - first).abs().topk(min(top, len(first))).indices.tolist()
    changes = zip(largest, token_strings(model, largest), first[largest].tolist(), second[largest].tolist(), strict=True)
    return AblationEffect(
        components=tuple(component_label(*model.shapes.locate(each)) for each in components),
        before=NextTokens(ranked(model, first, top), first),
        after=NextTokens(ranked(model, second, top), second),
        kl=(before.exp() * (before - after)).sum(dim=-1).clamp_min(0),
        changes=tuple(TokenChange(*each) for each in changes),
        projections=None if directions is None else {site: along_after[site] - along_before[site] for site in SITES},
    )


def _measure(
    model: LensModel, ids: Sequence[int], intervention: Intervention | None, directions: Directions | None
) -> tuple[Float[Tensor, "pos d_vocab"], dict[Site, Float[Tensor, "layer pos"]]]:
    """Log-probabilities at every position, and y·v̂ where there are directions."""
    row = model.row(ids)
    along: dict[Site, Tensor] = {site: torch.zeros(model.shapes.n_layers, len(ids)) for site in SITES}
    fns = {} if directions is None else projecting(directions, along)
    with nullcontext() if intervention is None else intervene(model, intervention), model.intercept(fns):
        logits = model.logits(*row, starts=[len(ids)])[0]
    return logits.float().log_softmax(dim=-1).cpu(), along
