"""What an edit is compared with: activation addition, directional ablation, and controls that any claim must beat."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from s2e_lens.attribution import check_means, check_measured_on
from s2e_lens.editor import EditBasis
from s2e_lens.editor.apply import flat_weight, restore
from s2e_lens.effects import Effect, Intervention, Positions, intervene
from s2e_lens.errors import FrameError, ModelError, PlanError
from s2e_lens.models import LensModel
from s2e_lens.precision import exact
from s2e_lens.results import SITES, Component, Directions, Edit, Means, Place, Site, SiteDirections, SiteEdit


def addition(
    directions: Directions,
    strength: float,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
    normalised: bool = False,
) -> Intervention:
    """Activation addition: y <- y + strength * v at every chosen site and layer (arXiv 2602.09870's baseline).

    y is the projection's raw output, before any norm that follows it. ``normalised`` adds strength * v̂ instead, a vector
    of the same length everywhere. At strength 0 nothing is changed, and no hook is set.

    Raises:
        PlanError: for a layer or site that is not there, or a strength that is not finite.
    """
    if not math.isfinite(strength):
        raise PlanError(f"steering takes a finite strength; got {strength}.")
    effects = {}
    for site, layer in _places(directions, sites, layers) if strength else []:
        found = directions[site]
        effects[site, layer] = Effect(adds=strength * (found.unit[layer] if normalised else found.vectors[layer]))
    return Intervention(effects, positions)


def ablation(
    directions: Directions,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
    of: Place | None = None,
) -> Intervention:
    """Directional ablation: y <- y - (y·v̂) v̂ at every chosen site and layer: nothing is written along v̂ any more.

    Each place loses its own direction; with ``of``, all lose the one of that place (as in arXiv 2406.11717).

    Raises:
        PlanError: for a layer or site that is not there.
    """
    chosen = _places(directions, sites, layers)
    if of is not None:
        _places(directions, (of[0],), (of[1],))
    effects = {}
    for site, layer in chosen:
        source, at = of or (site, layer)
        unit = directions[source].unit[at]
        if unit.any():
            effects[site, layer] = Effect(removes=unit[None])
    return Intervention(effects, positions)


def component_ablation(
    model: LensModel, components: Sequence[Component | str], means: Means | None = None, *, force: bool = False
) -> Intervention:
    """Heads and neurons taken out: y <- y - Σ_i x_i W_i, or with means y <- y - Σ_i (x_i - x̄_i) W_i (mean ablation).

    Zero ablation is the model with the components' rows of W_O and W_out set to zero. The weights are those of the moment, so
    inside ``edited`` an edited component goes as a whole; inside ``edit_as_hooks`` what the edit adds for it stays.

    Args:
        model: the model.
        components: heads and neurons, or their labels (``"L5H3"``, ``"L5N1234"``); a repeated one counts once.
        means: x̄, for mean ablation.
        force: accept means of other weights.

    Raises:
        ModelError: for no component, or one that is not there.
        ShapeError: if the means are of a model of another shape.
        MismatchError: if the means were taken on other weights, unless ``force``.
        NotEditableError: for quantised or offloaded weights.
    """
    if not components:
        raise ModelError("0 components came to be ablated; name at least one.")
    if means is not None:
        check_means(model, means, force=force)
    where = sorted({model.shapes.locate(each) for each in components}, key=lambda each: (SITES.index(each[0]), *each[1:]))
    effects = {}
    for site, layer in dict.fromkeys(each[:2] for each in where):
        count, d_in = model.shapes.components(site)
        chosen = torch.tensor([index for *place, index in where if place == [site, layer]])
        W = model.weight(site, layer)[chosen.to(model.weight(site, layer).device)].detach().float().cpu()
        rows = (chosen[:, None] * d_in + torch.arange(d_in)).flatten()  # their places among the inputs, side by side
        kept = None if means is None else torch.einsum("ci,cid->d", means.inputs(site)[layer, chosen].float(), W)
        reads, writes = _leanest(rows, W.flatten(0, 1), count * d_in)
        effects[site, layer] = Effect(reads=reads, writes=writes, adds=kept)
    return Intervention(effects)


def _leanest(
    rows: Int[Tensor, " row"], W: Float[Tensor, "row d_model"], d_in_total: int
) -> tuple[Float[Tensor, "term d_in_total"], Float[Tensor, "term d_model"]]:
    """Reads and writes of y <- y - x[rows] W in the fewer terms: one for each row, or one for each dimension of y."""
    if len(rows) <= W.shape[1]:
        reads = torch.zeros(len(rows), d_in_total)
        reads[torch.arange(len(rows)), rows] = 1
        return reads, -W
    reads = torch.zeros(W.shape[1], d_in_total)
    reads[:, rows] = W.T
    return reads, -torch.eye(W.shape[1])


def _places(directions: Directions, sites: tuple[Site, ...], layers: Sequence[int] | None) -> list[Place]:
    n_layers = directions.attn.unit.shape[0]
    chosen = range(n_layers) if layers is None else layers
    if not set(sites) <= set(SITES) or not set(chosen) <= set(range(n_layers)):
        raise PlanError(
            f"steering takes sites among {SITES} and layers 0 to {n_layers - 1}; got {sites} and "
            f"{'all layers' if layers is None else list(layers)}."
        )
    return [(site, layer) for site in sites for layer in chosen]


def steered(
    model: LensModel,
    directions: Directions,
    strength: float,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
    normalised: bool = False,
    force: bool = False,
) -> AbstractContextManager[None]:
    """:func:`addition` as a context manager over hooks; such blocks stack with others.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        PlanError: for a layer or site that is not there, or a strength that is not finite.
    """
    check_measured_on(model, directions, force=force)
    added = addition(directions, strength, sites=sites, layers=layers, positions=positions, normalised=normalised)
    return intervene(model, added)


def ablated(
    model: LensModel,
    directions: Directions,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
    of: Place | None = None,
    force: bool = False,
) -> AbstractContextManager[None]:
    """:func:`ablation` as a context manager over hooks; such blocks stack with others.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        PlanError: for a layer or site that is not there.
    """
    check_measured_on(model, directions, force=force)
    return intervene(model, ablation(directions, sites=sites, layers=layers, positions=positions, of=of))


@contextmanager
def orthogonalised(
    model: LensModel,
    directions: Directions,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: Sequence[int] | None = None,
    of: Place | None = None,
    force: bool = False,
) -> Iterator[None]:
    """:func:`ablated` in the weights: W <- W - (W v̂) v̂ᵀ, and the same for the bias; old weights come back bit for bit.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        NotEditableError: for quantised, offloaded or expert weights.
        FrameError: if a bias is not the model's own memory.
        PlanError: for a layer or site that is not there.
    """
    check_measured_on(model, directions, force=force)
    touched: dict[object, Tensor] = {}
    units: dict[object, Tensor] = {}
    for place, effect in ablation(directions, sites=sites, layers=layers, of=of).effects.items():
        touched[place], units[place] = flat_weight(model, *place), effect.removes  # pyright: ignore[reportArgumentType]
        bias = model.bias(*place)
        if bias is not None:
            if not isinstance(bias, torch.nn.Parameter) and bias.any():
                raise FrameError(
                    f"the {place[0]} bias of layer {place[1]} of {model.name} is a copy: editing it changes nothing."
                )
            touched[place, "bias"], units[place, "bias"] = bias.detach()[None], units[place]
    saved: dict[object, Tensor] = {}
    try:
        with torch.no_grad():
            for key, weight in touched.items():
                saved[key] = weight.clone()
                unit = units[key].to(weight.device)
                with exact(weight.device):
                    wide = weight.float()
                    weight.copy_(wide - (wide @ unit.T) @ unit)
        yield
    finally:
        restore(touched, saved)


def random_directions(directions: Directions, *, seed: int = 0) -> Directions:
    """Control: vectors that point anywhere, each as long as the one it stands for, per site and layer."""
    generator = torch.Generator().manual_seed(seed)

    def shuffled(site: Site) -> SiteDirections:
        noise = torch.randn(directions[site].unit.shape, generator=generator)
        unit = torch.nn.functional.normalize(noise.double(), dim=-1).float()
        return SiteDirections(torch.where(directions[site].norm[:, None] > 0, unit, 0.0), directions[site].norm)

    method = f"random[seed {seed}]"
    return dataclasses.replace(
        directions,
        attn=shuffled("attn"),
        mlp=shuffled("mlp"),
        method=method,
        provenance=directions.provenance.with_settings(method=method),
    )


def random_components(edit: Edit, basis: EditBasis | None = None, *, seed: int = 0) -> Edit:
    """Control: the same λ, as many in every layer, on components drawn at random, each reading what is its own.

    With a ``basis``, each λ is signed so that it pushes towards +v on its component's average input, as those of an edit do:
    the harder control. With signs drawn along with the sizes, many of them cancel.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(term: SiteEdit, site: Site) -> SiteEdit:
        orders = torch.stack([torch.randperm(term.lam.shape[1], generator=generator) for _ in term.lam])
        drawn = term.lam.gather(1, orders)
        if basis is not None:
            push = basis[site].push
            drawn = torch.where(push == 0, drawn, drawn.abs() * push.sign())
        return dataclasses.replace(term, lam=drawn)

    return dataclasses.replace(
        edit,
        attn=tuple(shuffled(term, "attn") for term in edit.attn),
        mlp=tuple(shuffled(term, "mlp") for term in edit.mlp),
        provenance=edit.provenance.with_settings(random_components=seed),
    )
