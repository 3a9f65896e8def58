"""Planning: λ of every component in closed form, from settings or from a target. Nothing here changes a model."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import CHUNK_ROWS, Score, attribute, cosine
from s2e_lens.errors import NotEditableError, PlanError
from s2e_lens.models import LensModel
from s2e_lens.precision import exact
from s2e_lens.results import SITES, Brief, Directions, Edit, Provenance, Site, SiteEdit, component_label, parse_component

Rhos = Mapping[Site, float]
Planner = Callable[["EditBasis"], Edit]
"""Makes an edit from a basis: ``functools.partial(plan_edit, rho_mlp=1, alpha=0.05)``, or a function of your own."""


@dataclass(frozen=True, eq=False, repr=False)
class SiteBasis(Brief):
    """All of a site's edit that does not depend on ρ and α."""

    u: Float[Tensor, "layer d_model"]
    k: Float[Tensor, "layer component d_in"]
    """W v̂ / ‖W v̂‖: a component's own reading of v̂ (0 for one that cannot write along v̂)."""
    reach: Float[Tensor, "layer component"]
    """‖W v̂‖: what the component writes along v̂ per unit of k·x. λ / reach is the gain on its own contribution."""
    g: Float[Tensor, "layer component"]
    """The score that λ is a function of."""
    push: Float[Tensor, "layer component"]
    """k·x̄: how strongly the component fires on average."""
    norm: Float[Tensor, " layer"]
    """‖v‖."""

    def edit(self, rho: float, alpha: float, *, relative: bool) -> SiteEdit:
        """The edit at these settings; ``relative`` takes the closed form as a gain: λ = gain * reach."""
        lam = elastic_net(self.g, rho=rho, alpha=alpha)
        return SiteEdit(self.u, self.k, torch.where(self.reach > 0, lam * self.reach if relative else lam, 0.0))

    def gain(self, edit: SiteEdit) -> Float[Tensor, "layer component"]:
        """|λ|/‖W v̂‖: what each component writes along v̂ in addition, relative to what it wrote before (0 where unedited)."""
        return torch.where(edit.lam != 0, edit.lam.abs() / self.reach.clamp_min(torch.finfo(torch.float32).tiny), 0.0)

    def largest_gain(self, edit: SiteEdit) -> float:
        """The largest gain among the components."""
        return float(self.gain(edit).max())

    def dose(self, edit: SiteEdit) -> Float[Tensor, " layer"]:
        """Σ_i λ_i k_i·x̄_i per layer: the activation-addition strength along v̂ that the edit equals on average inputs."""
        return (edit.lam * self.push).sum(dim=-1)

    def relative_dose(self, edit: SiteEdit) -> float:
        """Summed dose over summed ‖v‖: comparable with the strength of ``strength * v`` added at every layer."""
        total = float(self.norm.sum())
        return float(self.dose(edit).sum()) / total if total else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class EditBasis(Brief):
    """Both sites' bases: computed once, after which any (ρ_attn, ρ_mlp, α) costs a few vector operations."""

    attn: SiteBasis
    mlp: SiteBasis
    provenance: Provenance

    def __getitem__(self, site: Site) -> SiteBasis:
        return {"attn": self.attn, "mlp": self.mlp}[site]

    def at(self, layers: Sequence[int]) -> "EditBasis":
        """The same, for edits of these layers alone: every score elsewhere is 0, and so is λ.

        Raises:
            PlanError: if a layer is not there, or none is named.
        """
        n_layers = self.attn.g.shape[0]
        if not layers or not set(layers) <= set(range(n_layers)):
            raise PlanError(f"an edit takes some of the layers 0 to {n_layers - 1}; got {list(layers)}.")
        here = torch.tensor([layer in layers for layer in range(n_layers)])[:, None]
        attn, mlp = (dataclasses.replace(each, g=torch.where(here, each.g, 0.0)) for each in (self.attn, self.mlp))
        return EditBasis(attn, mlp, self.provenance.with_settings(layers=sorted(set(layers))))


def elastic_net(g: Float[Tensor, "*shape"], *, rho: float, alpha: float) -> Float[Tensor, "*shape"]:
    """λ = argmax g λ - ρ (α|λ| + (1-α)/2 λ²) = sign(g) max(|g| - ρα, 0) / (ρ (1-α)), element by element.

    >>> elastic_net(torch.tensor([0.5, -0.5, 0.05]), rho=0.2, alpha=0.5)
    tensor([ 4., -4.,  0.])

    Raises:
        PlanError: unless ρ > 0 and 0 <= α < 1.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise PlanError(f"rho must be a positive number, got {rho}. To leave a site out, do not give its rho.")
    if not 0 <= alpha < 1:
        raise PlanError(f"alpha must lie in [0, 1), got {alpha}: at 1 the update has no quadratic term and no bound.")
    return g.sign() * (g.abs() - rho * alpha).clamp_min(0) / (rho * (1 - alpha))


def prepare_edit(model: LensModel, directions: Directions, *, score: Score = cosine, force: bool = False) -> EditBasis:
    """What an edit of this model along these directions needs, apart from ρ and α.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
    """
    attribution = attribute(model, directions, score=score, force=force)
    bases = {}
    for site in SITES:
        unit, norm = directions[site].unit, directions[site].norm
        readings = _readings(model, site, unit)
        reach = readings.norm(dim=-1)
        k = torch.where(reach[..., None] > 0, readings / reach[..., None].clamp_min(torch.finfo(torch.float32).tiny), 0.0)
        push = (k * directions.means.inputs(site).float()).sum(dim=-1)
        bases[site] = SiteBasis(u=unit, k=k, reach=reach, g=attribution[site], push=push, norm=norm)
    return EditBasis(bases["attn"], bases["mlp"], attribution.provenance)


def _readings(model: LensModel, site: Site, unit: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer component d_in"]:
    """W v̂ of every component, in float32."""
    n, d_in = model.shapes.components(site)
    found = torch.zeros(model.shapes.n_layers, n, d_in)
    for layer in range(model.shapes.n_layers if n else 0):
        W = model.weight(site, layer).detach()
        step = max(1, CHUNK_ROWS // d_in)
        for i in range(0, n, step):
            with exact(W.device):
                found[layer, i : i + step] = (W[i : i + step].float() @ unit[layer].to(W.device)).cpu()
    return found


def plan_edit(
    basis: EditBasis,
    *,
    rho_attn: float | None = None,
    rho_mlp: float | None = None,
    alpha: float,
    relative: bool = False,
) -> Edit:
    """ΔW_i = λ_i u k_iᵀ with λ from :func:`elastic_net` (Steer2Edit, arXiv 2602.09870). A site without its ρ is left out.

    Args:
        basis: from :func:`prepare_edit`.
        rho_attn: strength of the penalty on heads: smaller ρ, larger λ.
        rho_mlp: the same for neurons.
        alpha: 0 edits every component a little, near 1 few of them.
        relative: take the closed form as a gain on the component's own contribution, λ = gain * ‖W v̂‖, which has the
            same meaning in models of any size. The published form is absolute.

    Raises:
        PlanError: for settings outside their range, or when both sites are left out.
        NotEditableError: if ``rho_mlp`` is given for a mixture of experts.
    """
    rhos: dict[Site, float] = {site: float(rho) for site, rho in zip(SITES, (rho_attn, rho_mlp), strict=True) if rho is not None}
    if not rhos:
        raise PlanError("both sites are left out: give rho_attn, rho_mlp or both.")
    terms: dict[Site, tuple[SiteEdit, ...]] = {"attn": (), "mlp": ()}
    for site, rho in rhos.items():
        _check_components(basis, site)
        terms[site] = (basis[site].edit(rho, alpha, relative=relative),)
    chosen = {"rho_attn": rhos.get("attn"), "rho_mlp": rhos.get("mlp")}
    settings = {**chosen, "alpha": float(alpha), "relative": relative}
    return Edit(terms["attn"], terms["mlp"], basis.provenance.with_settings(**settings))


def plan_to_dose(
    basis: EditBasis,
    dose: float | Rhos = 1.0,
    *,
    alpha: float = 0.05,
    relative: bool = False,
    sites: tuple[Site, ...] = SITES,
) -> Edit:
    """The edit whose dose, relative to ‖v‖, is the one asked for: comparable with activation steering at that strength.

    A site's relative dose is Σ_layers Σ_i λ_i k_i·x̄_i / Σ_layers ‖v‖; it falls as ρ grows, so ρ is found by bisection.

    Args:
        basis: from :func:`prepare_edit`.
        dose: one target for all sites, or one per site.
        alpha: kept as it is; ρ is chosen.
        relative: see :func:`plan_edit`.
        sites: sites to edit.

    Raises:
        PlanError: for a target that is not positive, or that no ρ reaches (a site that never fires).
    """
    targets = dose if isinstance(dose, Mapping) else dict.fromkeys(_editable(basis, sites), dose)
    rhos = _solve_rhos(basis, targets, SiteBasis.relative_dose, what="dose", alpha=alpha, relative=relative)
    return plan_edit(basis, rho_attn=rhos.get("attn"), rho_mlp=rhos.get("mlp"), alpha=alpha, relative=relative)


def plan_to_gain(basis: EditBasis, gains: Rhos, *, alpha: float = 0.05, relative: bool = False) -> Edit:
    """The edit whose largest gain is the one asked for, site by site: ρ is found by bisection.

    A component's gain λ/‖W v̂‖ is what it writes along v̂ in addition, relative to what it wrote along v̂ before; unlike λ it
    compares across sites, layers and models.

    Args:
        basis: from :func:`prepare_edit`.
        gains: the largest gain of each site to edit, such as ``{"attn": 1, "mlp": 2}``.
        alpha: kept as it is; ρ is chosen.
        relative: see :func:`plan_edit`.

    Raises:
        PlanError: for a gain that is not positive, or that no ρ reaches.
    """
    rhos = _solve_rhos(basis, gains, SiteBasis.largest_gain, what="largest gain", alpha=alpha, relative=relative)
    return plan_edit(basis, rho_attn=rhos.get("attn"), rho_mlp=rhos.get("mlp"), alpha=alpha, relative=relative)


def _solve_rhos(
    basis: EditBasis,
    targets: Rhos,
    measure: Callable[[SiteBasis, SiteEdit], float],
    *,
    what: str,
    alpha: float,
    relative: bool,
) -> dict[Site, float]:
    """ρ of each site for which what is measured of its edit is the target."""
    rhos: dict[Site, float] = {}
    for site, target in targets.items():
        if not target > 0:
            raise PlanError(f"the {what} must be positive, got {target}. To leave a site out, do not name it.")
        _check_components(basis, site)
        site_basis = basis[site]

        def measured_at(rho: float, site_basis: SiteBasis = site_basis) -> float:
            return measure(site_basis, site_basis.edit(rho, alpha, relative=relative))

        rhos[site] = _solve_falling(measured_at, target, what=f"{what} {target} at {site}")
    return rhos


def plan_to_count(
    basis: EditBasis, *, heads: int | None = None, neurons: int | None = None, alpha: float = 0.5, relative: bool = False
) -> Edit:
    """The edit of the so many highest-scoring heads and neurons: ρ puts the threshold ρα between two scores.

    Raises:
        PlanError: for a count that is not between 1 and the number of components, for α = 0 (which edits all), or
            where scores tie at the border.
    """
    if alpha <= 0:
        raise PlanError("alpha = 0 edits every component, however many are asked for. Choose alpha between 0 and 1.")
    counts: dict[Site, int | None] = {"attn": heads, "mlp": neurons}
    rhos: dict[Site, float] = {}
    for site, count in counts.items():
        if count is None:
            continue
        _check_components(basis, site)
        scores = basis[site].g.abs().flatten().double().sort(descending=True).values
        if not 1 <= count <= len(scores):
            raise PlanError(f"{count} components were asked for at {site}; there are {len(scores)}.")
        below = float(scores[count]) if count < len(scores) else 0.0
        threshold = (float(scores[count - 1]) + below) / 2
        if not below < threshold:
            raise PlanError(f"the scores of components {count} and {count + 1} at {site} are equal: ask for another count.")
        rhos[site] = threshold / alpha
    return plan_edit(basis, rho_attn=rhos.get("attn"), rho_mlp=rhos.get("mlp"), alpha=alpha, relative=relative)


def leave_out(edit: Edit, labels: Sequence[str]) -> Edit:
    """The same edit with λ = 0 for these components (``L5H3``, ``L5N1234``), in every term. What is left out is on record.

    Raises:
        ModelError: for a label that names no component.
        PlanError: for a component that the edit does not have.
    """
    places = [parse_component(label) for label in labels]
    terms: dict[Site, tuple[SiteEdit, ...]] = {}
    for site in SITES:
        here = [(layer, index) for other, layer, index in places if other == site]
        kept = []
        for term in edit[site]:
            lam = term.lam.clone()
            for layer, index in here:
                if layer >= lam.shape[0] or index >= lam.shape[1]:
                    raise PlanError(
                        f"{component_label(site, layer, index)} is not there: the edit has layers 0 to {lam.shape[0] - 1} with "
                        f"{lam.shape[1]} {'heads' if site == 'attn' else 'neurons'} each."
                    )
                lam[layer, index] = 0
            kept.append(dataclasses.replace(term, lam=lam) if here else term)
        terms[site] = tuple(kept)
    known = edit.provenance.settings.get("left_out", [])
    left_out = sorted({*known, *(component_label(*place) for place in places)})
    provenance = edit.provenance.with_settings(left_out=left_out) if left_out else edit.provenance
    return Edit(terms["attn"], terms["mlp"], provenance)


def strongest_first(edits: Sequence[Edit]) -> list[Edit]:
    """Edits by the norm of λ, which is that of their update, largest first."""
    return sorted(edits, key=lambda edit: -sum(float(term.lam.square().sum()) for site in SITES for term in edit[site]))


def _editable(basis: EditBasis, sites: tuple[Site, ...]) -> list[Site]:
    return [site for site in sites if basis[site].g.shape[1]]


def _check_components(basis: EditBasis, site: Site) -> None:
    if basis[site].g.shape[1] == 0:
        raise NotEditableError(
            f"{basis.provenance.model} has no {site} components to edit (mixture of experts). Leave its rho out: heads work."
        )


def _solve_falling(f: Callable[[float], float], target: float, *, what: str) -> float:
    """ρ with f(ρ) = target for a falling f, by bisection in log ρ over 1e-6 … 1e6, to float precision."""
    low, high = -6.0, 6.0
    if not f(10**low) >= target >= f(10**high):
        raise PlanError(
            f"no rho gives {what}: the reachable range is {f(10**high):.3g} to {f(10**low):.3g}. "
            "(A dose falls as rho grows for the cosine score; other scores need rho, or a count.)"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if f(10**middle) > target else (low, middle)
    return 10**high
