"""Applying: fold an edit into the weights inside a ``with`` block, or run it as hooks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_weights
from s2e_lens.effects import Effect, Intervention, intervene
from s2e_lens.errors import FrameError, MismatchError, PlanError, ShapeError
from s2e_lens.models import LensModel
from s2e_lens.results import SITES, Edit, Place, Site

CHUNK_ROWS = 1024
"""Rows of a weight that are widened to float32 at a time."""


@dataclass(frozen=True, repr=False)
class Realised:
    """How much of a planned update the weights' dtype could take up (1.0 and 0.0 but for rounding in float32)."""

    planned: Mapping[Place, float]
    """‖ΔW‖ of each touched site and layer, as planned."""
    along: Mapping[Place, float]
    """<ΔW realised, ΔW planned>."""
    missed: Mapping[Place, float]
    """‖ΔW realised - ΔW planned‖."""

    def __repr__(self) -> str:
        return f"Realised(fraction={self.fraction:.6f}, relative_error={self.relative_error:.2g}, norm={self.norm:.4g})"

    @property
    def fraction(self) -> float:
        """<realised, planned> / ‖planned‖² over all touched weights."""
        total = sum(size**2 for size in self.planned.values())
        return sum(self.along.values()) / total if total else 1.0

    @property
    def relative_error(self) -> float:
        """‖realised - planned‖ / ‖planned‖ over all touched weights."""
        total = sum(size**2 for size in self.planned.values())
        return (sum(size**2 for size in self.missed.values()) / total) ** 0.5 if total else 0.0

    @property
    def norm(self) -> float:
        """‖ΔW‖ over all touched weights, as planned."""
        return sum(size**2 for size in self.planned.values()) ** 0.5


def check_editable(model: LensModel, edit: Edit, *, force: bool = False) -> None:
    """Refuse an edit that does not fit a model, or weights that already carry one.

    Raises:
        ShapeError: if the shapes differ (never forced).
        MismatchError: if it was measured on other weights, or the weights carry an edit, unless ``force``.
        NotEditableError: for quantised, offloaded or expert weights.
    """
    for site in SITES:
        want = [model.shapes.n_layers, *model.shapes.components(site)]
        for term in edit[site]:
            if list(term.k.shape) != want or term.u.shape[-1] != model.shapes.d_model:
                raise ShapeError(
                    f"the {site} edit is for [layer, component, d_in] = {list(term.k.shape)} and d_model {term.u.shape[-1]}; "
                    f"{model.name} has {want} and {model.shapes.d_model}. Plan it on this model."
                )
            if not (term.lam.isfinite().all() and term.k.isfinite().all() and term.u.isfinite().all()):
                raise PlanError(f"the {site} edit holds NaN or infinity and would destroy the model. Plan it again.")
    if model.carries_edit and not force:
        raise MismatchError(
            f"{model.name} already carries an edit: {model.carries_edit}. Load the unedited checkpoint, or use force (--force) "
            "to put a second edit on top."
        )
    check_weights(model, edit.provenance.weight_hash, what="edit was planned", force=force)


@contextmanager
def edited(model: LensModel, edit: Edit, *, force: bool = False) -> Iterator[Realised]:
    """Fold an edit into the live weights for the ``with`` block; afterwards the old weights are copied back, bit for bit.

    W <- round(float32(W) + Σ_terms outer(λ k, u)), added in float32 and rounded once. The weights come back also after
    an exception. Tensors of untouched layers are never written.

    Yields:
        how much of the planned update was realised in the model's dtype.

    Raises:
        MismatchError: if the model carries an edit already, or is not the one the edit was planned on, unless ``force``.
        NotEditableError: for quantised, offloaded or expert weights.
        PlanError: if the edit holds NaN, or a weight would leave the range of its dtype.
    """
    check_editable(model, edit, force=force)
    touched: dict[Place, Tensor] = {(site, layer): flat_weight(model, site, layer) for site, layer in edit.touched()}
    saved: dict[Place, Tensor] = {}
    planned: dict[Place, float] = {}
    along: dict[Place, float] = {}
    missed: dict[Place, float] = {}
    try:
        with torch.no_grad():
            for key, weight in touched.items():
                saved[key] = weight.clone()
                planned[key], along[key], missed[key] = _fold(edit, key, weight)
        yield Realised(planned, along, missed)
    finally:
        restore(touched, saved)


def restore(touched: Mapping[Any, Tensor], saved: Mapping[Any, Tensor]) -> None:
    """Copy every old weight back; an interruption meanwhile is raised when all are back."""
    interrupted: KeyboardInterrupt | None = None
    remaining = dict(saved)
    with torch.no_grad():
        while remaining:
            try:
                place, old = next(iter(remaining.items()))
                touched[place].copy_(old)
                del remaining[place]
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted


def flat_weight(model: LensModel, site: Site, layer: int) -> Float[Tensor, "d_in_total d_model"]:
    """The live weight as one matrix.

    Raises:
        FrameError: if that would be a copy.
    """
    weight = model.weight(site, layer)
    flat = weight.detach().flatten(0, 1)
    if flat.data_ptr() != weight.data_ptr():
        raise FrameError(
            f"the {site} weight of layer {layer} of {model.name} cannot be viewed as one matrix: editing would change a copy."
        )
    return flat


def _fold(edit: Edit, place: Place, weight: Float[Tensor, "d_in_total d_model"]) -> tuple[float, float, float]:
    """Add the edit in place; returns ‖planned‖, <realised, planned> and ‖realised - planned‖."""
    site, layer = place
    factors, units = _factors(edit, site, layer, weight.device)
    wide = torch.promote_types(weight.dtype, torch.float32)
    planned = along = missed = 0.0
    for start in range(0, weight.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        delta = (factors[:, rows, None] * units[:, None, :]).sum(dim=0)
        if not delta.any():
            continue
        old = weight[rows].to(wide, copy=True)  # without a copy it would be a view of a float32 weight
        new = (old + delta).to(weight.dtype)
        if not new.isfinite().all():
            raise PlanError(
                f"the edit of {site}, layer {layer} is too large for {weight.dtype}: a weight would be infinite. "
                "Scale the edit down, or load the model in bfloat16 or float32."
            )
        weight[rows] = new
        change = new.to(wide) - old
        planned += delta.square().sum().item()
        along += (change * delta).sum().item()
        missed += (change - delta).square().sum().item()
    return planned**0.5, along, missed**0.5


def _factors(
    edit: Edit, site: Site, layer: int, device: torch.device
) -> tuple[Float[Tensor, "term d_in_total"], Float[Tensor, "term d_model"]]:
    """λk and u of every term of a site and layer: the layer's whole change is factors.T @ units."""
    factors = torch.stack([term.factor(layer) for term in edit[site]])
    return factors.to(device), torch.stack([term.u[layer] for term in edit[site]]).to(device)


def edit_effects(edit: Edit) -> Intervention:
    """The edit without touching a weight: y <- y + Σ_terms (x · λk) u at every edited site and layer."""
    effects = {}
    for site, layer in edit.touched():
        factors, units = _factors(edit, site, layer, torch.device("cpu"))
        effects[site, layer] = Effect(reads=factors, writes=units)
    return Intervention(effects)


def edit_as_hooks(model: LensModel, edit: Edit, *, force: bool = False) -> AbstractContextManager[None]:
    """:func:`edit_effects` as a context manager over hooks.

    Gives the logits of :func:`edited` to rounding, also on quantised weights, which cannot be edited.

    Raises:
        MismatchError: as :func:`edited`.
    """
    check_editable(model, edit, force=force)
    return intervene(model, edit_effects(edit))
