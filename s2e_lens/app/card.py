"""What a component's card says: its numbers under the page's edit (λ alone), and what the model does with it (under the lock)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.app.answers import prompt_tokens
from s2e_lens.app.workspace import Ready
from s2e_lens.editor import EditBasis
from s2e_lens.readout import (
    AblationEffect,
    TokenLens,
    ablation_effect,
    activations,
    component_tokens,
    firings,
    token_strings,
)
from s2e_lens.results import SITES, Edit, Site, SiteEdit, component_label, parse_component

ROWS = 40
"""Components that the table shows."""


@dataclass(frozen=True)
class Facts:
    """A component's numbers."""

    label: str
    site: Site
    layer: int
    index: int
    score: float
    rank: int
    """By the score's magnitude, among the components of its site; 1 is the largest."""
    total: int
    lam: float
    reach: float
    """‖W v̂‖: what it writes along v̂ per unit of k·x."""
    sign: int | None
    """k of a neuron; a head's k is a unit vector of d_head numbers."""
    push: float
    """k·x̄."""
    norm: float
    """‖v‖ of its layer and site."""
    off: bool

    @property
    def gain(self) -> float:
        """What it writes along v̂ in addition, relative to what it wrote before."""
        return self.lam / self.reach if self.reach else 0.0

    @property
    def dose(self) -> float:
        """λ k·x̄."""
        return self.lam * self.push


def facts(basis: EditBasis, edit: Edit, label: str, off: Sequence[str]) -> Facts:
    """A component's numbers under an edit; λ of an edit of several terms is their sum.

    Raises:
        ModelError: if the label names no component.
    """
    site, layer, index = parse_component(label)
    base = basis[site]
    scores = base.g.abs()
    lam = sum(float(term.lam[layer, index]) for term in edit[site])
    return Facts(
        label=component_label(site, layer, index),
        site=site,
        layer=layer,
        index=index,
        score=float(base.g[layer, index]),
        rank=1 + int((scores > scores[layer, index]).sum()),
        total=scores.numel(),
        lam=lam,
        reach=float(base.reach[layer, index]),
        sign=None if site == "attn" else int(base.k[layer, index, 0].sign()),
        push=float(base.push[layer, index]),
        norm=float(base.norm[layer]),
        off=component_label(site, layer, index) in off,
    )


@dataclass(frozen=True, eq=False)
class Reading:
    """What a component does with a prompt, in the unedited model."""

    tokens: tuple[str, ...]
    fires: Float[Tensor, " pos"]
    """k·x at every token: the edit adds λ times this along v̂."""
    active: Float[Tensor, " pos"]
    """A neuron's activation, or the size of what a head writes."""
    attention: Float[Tensor, "query key"] | None
    """Of a head."""
    zero: AblationEffect
    mean: AblationEffect


def reading(ready: Ready, label: str, prompt: str) -> Reading:
    """Run the model on a prompt, and with the component ablated. Call it under the lock.

    Raises:
        StateError: for a prompt that is empty or far too long.
        ModelError: if it does not fit the context.
    """
    model = ready.model
    ids = prompt_tokens(model, prompt)
    site, layer, index = parse_component(label)
    means = ready.directions.means
    return Reading(
        tokens=token_strings(model, ids),
        fires=firings(model, ids, _alone(ready, site, layer, index), force=True)[site][layer, index],
        active=activations(model, ids, [label])[0],
        attention=model.attention(ids, [layer])[0, index] if site == "attn" else None,
        zero=ablation_effect(model, ids, [label], directions=ready.directions, top=6, force=True),
        mean=ablation_effect(model, ids, [label], means=means, top=6, force=True),
    )


def _alone(ready: Ready, site: Site, layer: int, index: int) -> Edit:
    """The edit of one component with λ = 1: where it fires is k·x."""
    base = ready.basis[site]
    lam = torch.zeros_like(base.g)
    lam[layer, index] = 1.0
    term = (SiteEdit(base.u, base.k, lam),)
    return Edit(term if site == "attn" else (), term if site == "mlp" else (), ready.basis.provenance)


def promoted(ready: Ready, label: str, *, top: int = 8) -> TokenLens:
    """The tokens that a component promotes and suppresses on its direct path. Call it under the lock."""
    return component_tokens(ready.model, label, ready.directions.means, top=top, force=True)


@dataclass(frozen=True)
class Row:
    """A line of the table of components."""

    label: str
    score: float
    lam: float
    gain: float
    dose: float


COLUMNS = {"label": "component", "score": "score", "lam": "λ", "gain": "gain", "dose": "dose"}


def rows(basis: EditBasis, edit: Edit, *, which: str = "all", by: str = "score", up: bool = False) -> tuple[list[Row], int]:
    """The first components by one column, and how many there are in all. Numbers are ordered by magnitude, labels by place.

    Args:
        basis: scores.
        edit: λ.
        which: ``all``, ``attn``, ``mlp`` or ``edited``.
        by: the column.
        up: the smallest first.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in ("score", "lam", "gain", "dose")}
    places: list[Tensor] = []
    for number, site in enumerate(SITES):
        base = basis[site]
        if which not in ("all", "edited", site) or not base.g.numel():
            continue
        lam = sum((term.lam for term in edit[site]), torch.zeros_like(base.g))
        kept = (lam != 0 if which == "edited" else torch.ones_like(lam, dtype=torch.bool)).nonzero()
        at = kept.unbind(dim=1)
        places.append(torch.cat([torch.full((len(kept), 1), number), kept], dim=1))
        gain = torch.where(base.reach > 0, lam / base.reach.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
        for name, values in zip(columns, (base.g, lam, gain, lam * base.push), strict=True):
            columns[name].append(values[at])
    if not places:
        return [], 0
    where, values = torch.cat(places), {name: torch.cat(parts) for name, parts in columns.items()}
    if by == "label":
        order = torch.arange(len(where)).flip(0) if not up else torch.arange(len(where))
    else:
        order = values[by].abs().sort(descending=not up, stable=True).indices
    first = order[:ROWS]
    numbers = zip(*(values[name][first].tolist() for name in columns), strict=True)
    labels = [component_label(SITES[number], layer, index) for number, layer, index in where[first].tolist()]
    return [Row(label, *each) for label, each in zip(labels, numbers, strict=True)], len(where)


def with_off(off: Sequence[str], label: str) -> list[str]:
    """The components that are switched off, after one was switched."""
    return sorted(set(off) ^ {label})
