"""Activation steering: what an edit is compared with."""

import math
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from s2e_lens.attribution import check_measured_on
from s2e_lens.errors import PlanError
from s2e_lens.models import LensModel, SiteFn
from s2e_lens.results import SITES, Directions, Place, Site


def steered(
    model: LensModel,
    directions: Directions,
    strength: float,
    *,
    sites: tuple[Site, ...] = SITES,
    layers: tuple[int, ...] | None = None,
    force: bool = False,
) -> AbstractContextManager[None]:
    """Activation addition: y <- y + strength * v at every chosen site and layer, at every position (v not normalised).

    y is the projection's raw output, before any norm that follows it: the published baseline (arXiv 2602.09870). At
    strength 0 no hook is set.

    Raises:
        MismatchError: if the directions were measured on other weights, unless ``force``.
        PlanError: for a layer or site that the model does not have, or a strength that is not finite.
    """
    check_measured_on(model, directions, force=force)
    chosen = range(model.shapes.n_layers) if layers is None else layers
    unknown = [each for each in chosen if each not in range(model.shapes.n_layers)]
    if unknown or not set(sites) <= set(SITES) or not math.isfinite(strength):
        raise PlanError(
            f"steering takes sites among {SITES}, layers 0 to {model.shapes.n_layers - 1} and a finite strength; got {sites}, "
            f"{'all layers' if layers is None else layers} and {strength}."
        )
    places: list[Place] = [(site, layer) for site in sites for layer in chosen] if strength else []
    return model.intercept(
        {(site, layer): _add(strength * directions[site].vectors[layer].to(model.device)) for site, layer in places}
    )


def _add(vector: Float[Tensor, " d_model"]) -> SiteFn:
    def add(x: Tensor, y: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return (y.float() + vector.to(y.device)).to(y.dtype)

    return add
