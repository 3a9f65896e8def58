"""The records that flow between the modules. They hold tensors and know nothing of any model library.

A site is a place that writes to the residual stream: ``attn`` (through W_O) or ``mlp`` (through W_out). Both
sites have the same form, a sum over *components*::

    y = sum_i x[i] @ W[i] + b          x[i]: [d_in],  W[i]: [d_in, d_model],  y: [d_model]

For ``attn`` the components are the heads (x = z, d_in = d_head, W = W_O); for ``mlp`` they are the neurons
(x = post, d_in = 1, W = W_out). A mixture-of-experts block has no neurons of its own: its site has 0 components.
"""

import dataclasses
import math
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

import torch
import wadler_lindig
from jaxtyping import Float
from torch import Tensor

from s2e_lens.errors import DirectionError, MismatchError, ModelError, PlanError

Site = Literal["attn", "mlp"]
SITES: tuple[Site, Site] = ("attn", "mlp")
Place = tuple[Site, int]
"""A site of a layer."""


class Brief:
    """Shows a record with the shapes of its tensors, and not their numbers."""

    def __repr__(self) -> str:
        return wadler_lindig.pformat(self)


def component_label(site: Site, layer: int, index: int) -> str:
    """The field's short name of a component.

    >>> component_label("attn", 5, 3), component_label("mlp", 5, 1234)
    ('L5H3', 'L5N1234')
    """
    return f"L{layer}{'H' if site == 'attn' else 'N'}{index}"


def parse_component(label: str) -> tuple[Site, int, int]:
    """(site, layer, index) of a label, the inverse of :func:`component_label`; spaces around it and case do not matter.

    >>> parse_component("L5H3"), parse_component(" l5n1234")
    (('attn', 5, 3), ('mlp', 5, 1234))

    Raises:
        ModelError: if the label names no head or neuron.
    """
    match = re.fullmatch(r"L(\d{1,6})([HN])(\d{1,9})", label.strip(), flags=re.IGNORECASE | re.ASCII)
    if match is None:
        raise ModelError(f"{label[:40]!r} names no component: write L5H3 for head 3 of layer 5, L5N1234 for neuron 1234 of it.")
    return ("attn" if match[2].upper() == "H" else "mlp"), int(match[1]), int(match[3])


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to refuse it on another model and to make it again."""

    model: str
    weight_hash: str
    dtype: str
    frame: str = "raw"
    """The weight frame: ``raw`` means the checkpoint's own weights, unfolded and uncentred."""
    revision: str | None = None
    data_hash: str | None = None
    seed: int | None = None
    command: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: library_versions())

    def with_settings(self, **settings: Any) -> "Provenance":
        """A copy whose settings are extended by these."""
        return dataclasses.replace(self, settings={**self.settings, **settings})


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in ("s2e-lens", "transformer-lens", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def command_line() -> str | None:
    """The command that is running, when it is our own console script."""
    name = sys.argv[0].rsplit("/", 1)[-1] if sys.argv and sys.argv[0] else ""
    return shlex.join(["s2e-lens", *sys.argv[1:]]) if name in {"s2e-lens", "__main__.py"} else None


@dataclass(frozen=True, eq=False, repr=False)
class SiteMeans(Brief):
    """Means over examples of what enters and leaves one site, in float64."""

    inputs: Float[Tensor, "layer component d_in"]
    outputs: Float[Tensor, "layer d_model"]


@dataclass(frozen=True, eq=False, repr=False)
class ClassMeans(Brief):
    """Means of one class of examples; every example counts once, however long its response."""

    count: int
    attn: SiteMeans
    mlp: SiteMeans
    examples: Mapping[Site, Float[Tensor, "example layer d_model"]] | None = None
    """Each example's own mean output, kept only when asked for: its size grows with the number of examples."""

    def __getitem__(self, site: Site) -> SiteMeans:
        return {"attn": self.attn, "mlp": self.mlp}[site]


@dataclass(frozen=True, eq=False, repr=False)
class Means(Brief):
    """Means of the positive and of the negative examples."""

    positive: ClassMeans
    negative: ClassMeans
    provenance: Provenance

    def inputs(self, site: Site) -> Float[Tensor, "layer component d_in"]:
        """x̄ = (mean_pos(x) + mean_neg(x)) / 2."""
        return (self.positive[site].inputs + self.negative[site].inputs) / 2

    def input_difference(self, site: Site) -> Float[Tensor, "layer component d_in"]:
        """mean_pos(x) - mean_neg(x)."""
        return self.positive[site].inputs - self.negative[site].inputs

    def outputs(self, site: Site) -> Float[Tensor, "layer d_model"]:
        """ȳ = (mean_pos(y) + mean_neg(y)) / 2, of the raw projection outputs."""
        return (self.positive[site].outputs + self.negative[site].outputs) / 2


@dataclass(frozen=True, eq=False, repr=False)
class SiteDirections(Brief):
    """One steering vector per layer: v = norm * unit. A zero vector has norm 0 and unit 0."""

    unit: Float[Tensor, "layer d_model"]
    norm: Float[Tensor, " layer"]

    @classmethod
    def from_vectors(cls, vectors: Float[Tensor, "layer d_model"]) -> "SiteDirections":
        """Split vectors into unit vectors and norms (computed in float64, stored in float32)."""
        if not torch.isfinite(vectors).all():
            layers = sorted({int(i) for i in (~torch.isfinite(vectors)).nonzero()[:, 0]})
            raise DirectionError(
                f"the steering vectors of layers {layers} hold NaN or infinity. "
                "Look for an empty response or an overflow (float16) in the examples they come from."
            )
        wide = vectors.double()
        norm = wide.norm(dim=-1)
        unit = torch.where(norm[:, None] > 0, wide / norm.clamp_min(torch.finfo(torch.float64).tiny)[:, None], 0.0)
        return cls(unit=unit.float(), norm=norm.float())

    @property
    def vectors(self) -> Float[Tensor, "layer d_model"]:
        """v, not normalised."""
        return self.unit * self.norm[:, None]


@dataclass(frozen=True, eq=False, repr=False)
class Directions(Brief):
    """Steering vectors of both sites, with the means they come from."""

    attn: SiteDirections
    mlp: SiteDirections
    means: Means
    method: str
    provenance: Provenance

    def __getitem__(self, site: Site) -> SiteDirections:
        return {"attn": self.attn, "mlp": self.mlp}[site]


@dataclass(frozen=True)
class Component:
    """A head or neuron with its score."""

    site: Site
    layer: int
    index: int
    score: float

    @property
    def label(self) -> str:
        """``L5H3`` or ``L5N1234``."""
        return component_label(self.site, self.layer, self.index)


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Brief):
    """One score per head and per neuron."""

    heads: Float[Tensor, "layer head"]
    neurons: Float[Tensor, "layer neuron"]
    score: str
    provenance: Provenance

    def __getitem__(self, site: Site) -> Float[Tensor, "layer component"]:
        return {"attn": self.heads, "mlp": self.neurons}[site]

    def top(self, k: int = 10, *, site: Site | None = None) -> list[Component]:
        """The k components of largest magnitude, of one site or of both, largest first.

        Scores of the two sites are compared as they are. Ties keep the order attn, mlp, layer, index.
        """
        found: list[Component] = []
        for each in SITES if site is None else (site,):
            scores = self[each]
            width = scores.shape[1]
            order = scores.abs().flatten().sort(descending=True, stable=True).indices[:k].tolist()
            found += [Component(each, i // width, i % width, float(scores[i // width, i % width])) for i in order]
        return sorted(found, key=lambda component: -abs(component.score))[:k]


@dataclass(frozen=True, eq=False, repr=False)
class SiteEdit(Brief):
    """The edit of one site: ΔW_i = λ_i k_i uᵀ as a map d_in -> d_model, for each layer and component i."""

    u: Float[Tensor, "layer d_model"]
    """The direction that is written (unit)."""
    k: Float[Tensor, "layer component d_in"]
    """What component i reads (unit; for a neuron +1 or -1)."""
    lam: Float[Tensor, "layer component"]
    """λ, signed; 0 leaves a component as it is."""

    @property
    def count(self) -> int:
        """The number of edited components."""
        return int(torch.count_nonzero(self.lam))

    @property
    def touched(self) -> list[int]:
        """The layers in which at least one component is edited."""
        return [int(i) for i in (self.lam != 0).any(dim=-1).nonzero()[:, 0]]

    def factor(self, layer: int) -> Float[Tensor, " d_in_total"]:
        """λ_i k_i of all components of a layer, side by side: the layer's whole change is outer(factor, u)."""
        return (self.lam[layer, :, None] * self.k[layer]).flatten()

    def scaled(self, factor: float) -> "SiteEdit":
        """The same edit with λ multiplied."""
        return dataclasses.replace(self, lam=self.lam * factor)


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Brief):
    """A sum of rank-1 edits: one term per behaviour and site. ``a + b`` adds, ``0.5 * a`` scales."""

    attn: tuple[SiteEdit, ...]
    mlp: tuple[SiteEdit, ...]
    provenance: Provenance

    def __getitem__(self, site: Site) -> tuple[SiteEdit, ...]:
        return {"attn": self.attn, "mlp": self.mlp}[site]

    def __add__(self, other: "Edit") -> "Edit":
        if self.provenance.weight_hash != other.provenance.weight_hash:
            raise MismatchError(
                f"cannot add edits of different models: {self.provenance.model} ({self.provenance.weight_hash}) and "
                f"{other.provenance.model} ({other.provenance.weight_hash}). Plan both on the same weights."
            )
        parts = [part for each in (self, other) for part in each._parts()]
        hashes = sorted({each.provenance.data_hash or "unknown" for each in (self, other)})
        return Edit(
            attn=self.attn + other.attn,
            mlp=self.mlp + other.mlp,
            provenance=dataclasses.replace(self.provenance, settings={"sum_of": parts}, data_hash="+".join(hashes)),
        )

    def _parts(self) -> list[dict[str, Any]]:
        """What a sum records of this edit: the terms of a sum that was not scaled since, or the edit itself."""
        settings = self.provenance.settings
        return settings["sum_of"] if "sum_of" in settings and "scale" not in settings else [self.describe()]

    def __mul__(self, factor: float) -> "Edit":
        factor = float(factor)
        if not math.isfinite(factor):
            raise PlanError(f"an edit is scaled by a finite number, got {factor}.")
        scale = self.provenance.settings.get("scale", 1.0) * factor
        return Edit(
            attn=tuple(term.scaled(factor) for term in self.attn),
            mlp=tuple(term.scaled(factor) for term in self.mlp),
            provenance=self.provenance.with_settings(scale=scale),
        )

    __rmul__ = __mul__

    def __sub__(self, other: "Edit") -> "Edit":
        raise PlanError(
            "edits are not taken back by subtraction: leave the `with edited(...)` block instead, which copies the "
            "old weights back bit for bit. For the opposite push, add `-1 * edit`."
        )

    def touched(self) -> list[Place]:
        """The sites and layers that any term edits."""
        return [(site, layer) for site in SITES for layer in sorted({i for term in self[site] for i in term.touched})]

    def count(self, site: Site) -> int:
        """The number of components of a site that any term edits."""
        if not self[site]:
            return 0
        return int(torch.stack([term.lam != 0 for term in self[site]]).any(dim=0).sum())

    def describe(self) -> dict[str, Any]:
        """Settings and counts, ready for JSON."""
        counts = {"heads": self.count("attn"), "neurons": self.count("mlp")}
        return {**self.provenance.settings, **counts}
