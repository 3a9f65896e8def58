"""The geometry of steering vectors: how long they are, and how they agree between layers, sites and behaviours."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from s2e_lens.errors import MismatchError, ShapeError
from s2e_lens.results import SITES, Directions


@dataclass(frozen=True, eq=False)
class Geometry:
    """Norms and cosines of the steering vectors of one model. A zero vector has cosine 0 with everything."""

    names: tuple[str, ...]
    """The behaviours."""
    norms: Float[np.ndarray, "behavior site layer"]
    outputs: Float[np.ndarray, "behavior site layer"]
    """‖ȳ‖, the norm of the mean output there: what a vector's length compares with."""
    units: Float[np.ndarray, "behavior site layer d_model"]

    @property
    def chance(self) -> float:
        """1.96 / √d_model: 95 of 100 pairs of random directions have a cosine within ± this."""
        return 1.96 / math.sqrt(self.units.shape[-1])

    @property
    def between_layers(self) -> Float[np.ndarray, "behavior site layer other_layer"]:
        """Cosine of the vectors of two layers, of one behaviour and site."""
        return np.einsum("bsld,bsmd->bslm", self.units, self.units)

    @property
    def between_sites(self) -> Float[np.ndarray, "behavior layer"]:
        """Cosine of a layer's attn vector with its mlp vector."""
        return np.einsum("bld,bld->bl", self.units[:, 0], self.units[:, 1])

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of behaviours, by their places."""
        return tuple(itertools.combinations(range(len(self.names)), 2))

    @property
    def between_behaviors(self) -> Float[np.ndarray, "pair site layer"]:
        """Cosine of two behaviours' vectors of one layer and site."""
        first, second = (np.array([pair[i] for pair in self.pairs], dtype=np.int64) for i in (0, 1))
        return np.einsum("psld,psld->psl", self.units[first], self.units[second])


def geometry_info(directions: Mapping[str, Directions]) -> Geometry:
    """The geometry of steering vectors of one model.

    Args:
        directions: by the name of the behaviour.

    Raises:
        ShapeError: if none came, their shapes differ, or a value is not finite.
        MismatchError: if they come from different weights: directions of different models have nothing in common.
    """
    if not directions:
        raise ShapeError("0 behaviours came; the directions of at least one are needed.")
    first_name, first = next(iter(directions.items()))
    shape = tuple(first["attn"].unit.shape)
    for name, each in directions.items():
        found = [tuple(each[site].unit.shape) for site in SITES]
        if any(other != shape for other in found):
            raise ShapeError(
                f"the directions of {name!r} have shapes {found} [layer, d_model] at {', '.join(SITES)}; those of "
                f"{first_name!r} have {shape}. Directions of one model are needed."
            )
        hashes = (each.provenance.weight_hash, first.provenance.weight_hash)
        if hashes[0] != hashes[1]:
            raise MismatchError(
                f"the directions of {name!r} come from weights {hashes[0]}, those of {first_name!r} from {hashes[1]}. Their "
                "cosines mean nothing: extract both on one model."
            )
    every = [[each[site] for site in SITES] for each in directions.values()]
    info = Geometry(
        names=tuple(directions),
        norms=np.array([[site.norm.float().cpu().numpy() for site in sites] for sites in every]),
        outputs=np.array(
            [[each.means.outputs(site).norm(dim=-1).float().cpu().numpy() for site in SITES] for each in directions.values()]
        ),
        units=np.array([[site.unit.float().cpu().numpy() for site in sites] for sites in every]),
    )
    if not all(np.isfinite(each).all() for each in (info.norms, info.outputs, info.units)):
        raise ShapeError("the directions hold NaN or infinity; finite values are needed.")
    return info
