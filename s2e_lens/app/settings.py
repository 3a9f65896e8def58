"""From a page's settings to its edit: λ alone. No model is asked, and no lock is taken."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.app.state import FILE, State, StateError
from s2e_lens.app.workspace import Ready
from s2e_lens.editor import EditBasis, leave_out, plan_edit, plan_to_gain
from s2e_lens.errors import PlanError
from s2e_lens.evaluation.settings import layers_of
from s2e_lens.results import SITES, Edit, Site, component_label, parse_component

GAINS: dict[Site, float] = {"attn": 0.5, "mlp": 1.0}
"""Largest gains of the edit that a page opens with: visible, and far from what breaks a model."""

WEAKEST, STRONGEST = 0.01, 30.0
"""Largest gains (at α = 0) between which the sliders of ρ run."""


def planned(ready: Ready, state: State, *, edit: Edit | None = None) -> Edit:
    """The edit of a page: that of its ρ and α, or the one from a file, without what is switched off.

    Args:
        ready: vectors and scores.
        state: settings.
        edit: the one from a file.

    Raises:
        PlanError: for settings that plan nothing, or a component that is not there.
        StateError: if the edit of a file is asked for and there is none, or it is another model's.
    """
    if state.edit == FILE:
        if edit is None:
            raise StateError("the explorer was started without --edit FILE: choose the edit of the sliders.")
        if edit.provenance.weight_hash != ready.basis.provenance.weight_hash:
            raise StateError("the edit from the file is another model's: choose the edit of the sliders.")
        return leave_out(edit, state.off)
    if state.rho_attn is None and state.rho_mlp is None:
        return leave_out(_nothing(ready.basis), state.off)
    basis = basis_of(ready.basis, state.layers)
    made = plan_edit(basis, rho_attn=state.rho_attn, rho_mlp=state.rho_mlp, alpha=state.alpha, relative=state.relative)
    return leave_out(made, state.off)


def _nothing(basis: EditBasis) -> Edit:
    """The edit that changes nothing: both sites are left out."""
    return Edit((), (), basis.provenance.with_settings(rho_attn=None, rho_mlp=None))


def chosen_layers(text: str, n_layers: int) -> list[int] | None:
    """Layers as the field names them: ``all``, ``late``, ``0%-67%``, ``0-2,5``; None for all.

    Raises:
        PlanError: if they are not there.
    """
    found: set[int] = set()
    for part in (text.strip().lower() or "all").split(","):
        layers = layers_of(part.strip(), n_layers)
        if layers is None:
            return None
        found |= set(layers)
    return sorted(found)


def basis_of(basis: EditBasis, layers: str) -> EditBasis:
    """The basis for edits of some layers."""
    chosen = chosen_layers(layers, basis.attn.g.shape[0])
    return basis if chosen is None else basis.at(chosen)


def opened(ready: Ready, state: State, gains: dict[Site, float] | None = None) -> State:
    """The state with the ρ at which the largest gains are these: gains compare across scores and models, ρ does not.

    A site that no ρ brings there (all its scores are 0) is left out.
    """
    wanted = GAINS if gains is None else gains
    basis = basis_of(ready.basis, state.layers)
    found: dict[str, float | None] = {"rho_attn": None, "rho_mlp": None}
    for site, gain in wanted.items():
        if not basis[site].g.numel() or not gain > 0:
            continue
        try:
            edit = plan_to_gain(basis, {site: gain}, alpha=state.alpha, relative=state.relative)
        except PlanError:
            continue
        rho = edit.provenance.settings[f"rho_{site}"]
        found[f"rho_{site}"] = float(f"{rho:.4g}")
    return dataclasses.replace(state, **found)


def gains_of(ready: Ready, state: State) -> dict[Site, float]:
    """The largest gains of the sliders' edit, of the sites that are in it."""
    basis = basis_of(ready.basis, state.layers)
    rhos: dict[Site, float | None] = {"attn": state.rho_attn, "mlp": state.rho_mlp}
    found: dict[Site, float] = {}
    for site, rho in rhos.items():
        if rho is not None and basis[site].g.numel():
            found[site] = basis[site].largest_gain(basis[site].edit(rho, state.alpha, relative=state.relative))
    return found


def slider_range(basis: EditBasis, site: Site, *, relative: bool) -> tuple[float, float]:
    """Ends of the slider of log10 ρ, at which the largest gain is about 30 and 0.01 (at α = 0), on quarters of a decade.

    From the gain, as a good ρ depends on the model: at α = 0 the largest gain is max_i |g_i| / (ρ ‖W_i v̂‖). Where α is
    larger, nothing is edited beyond ρ = max|g|/α, which the slider reaches too.
    """
    g, reach = basis[site].g.abs(), basis[site].reach
    per_rho = g if relative else torch.where(reach > 0, g / reach.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    largest = float(per_rho.max()) if per_rho.numel() else 0.0
    if not largest > 0:
        return -2.0, 2.0
    low = math.floor(4 * math.log10(min(largest, float(g.max())) / STRONGEST)) / 4
    high = math.ceil(4 * math.log10(largest / WEAKEST)) / 4
    return low, high


@dataclass(frozen=True)
class SiteSummary:
    """What an edit does at one site, in numbers."""

    site: Site
    edited: int
    total: int
    largest_gain: float
    dose: float
    """Over ‖v‖: comparable with the strength of steering."""


def summary(basis: EditBasis, edit: Edit) -> list[SiteSummary]:
    """Counts, largest gain and dose per site."""
    rows = []
    for site in SITES:
        each = basis[site]
        gains = [each.largest_gain(term) for term in edit[site] if term.lam.numel()]
        dose = sum((each.relative_dose(term) for term in edit[site]), 0.0)
        rows.append(SiteSummary(site, edit.count(site), each.g.numel(), max(gains, default=0.0), dose))
    return rows


def lam_of(edit: Edit, site: Site, basis: EditBasis) -> Float[Tensor, "layer component"]:
    """λ of every component, summed over the terms of an edit of several behaviours; zeros where the site is left out."""
    found = torch.zeros_like(basis[site].g)
    for term in edit[site]:
        found = found + term.lam
    return found


def checked_label(text: str, basis: EditBasis) -> str:
    """A component's label, as we write it.

    Raises:
        PlanError: if there is no such component in the model; the message says which there are.
    """
    site, layer, index = parse_component(text)
    layers, components = basis[site].g.shape
    if layer >= layers or index >= components:
        kind = "heads" if site == "attn" else "neurons"
        raise PlanError(
            f"there is no {component_label(site, layer, index)}: the model has layers 0 to {layers - 1}, with "
            f"{f'{kind} 0 to {components - 1}' if components else f'no {kind}'} each."
        )
    return component_label(site, layer, index)
