"""What tests of figures share."""

import plotly.graph_objects as go
import torch

from s2e_lens.results import ClassMeans, Directions, Edit, Means, Provenance, SiteDirections, SiteEdit, SiteMeans


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trace(figure: go.Figure, name: str) -> go.Scatter:
    """The only trace of a name."""
    (found,) = [each for each in figure.data if each.name == name]
    return found


def titles(figure: go.Figure) -> set[str]:
    """Titles of axes and panels."""
    return {each.text for each in figure.layout.annotations}


def colour(scale, strongest: int) -> bool:
    """Whether the (red, green, blue) of a colour is led by one of them."""
    parts = [int(part) for part in scale.strip("rgb()").split(",")]
    return parts.index(max(parts)) == strongest


def provenance(weights: str = "w") -> Provenance:
    return Provenance(model="toy", weight_hash=weights, dtype="float32")


def means(layers: int = 3, heads: int = 4, neurons: int = 20, d_head: int = 5, d_model: int = 8, seed: int = 0) -> Means:
    """Means of random numbers."""

    def one(seed: int) -> ClassMeans:
        attn = SiteMeans(random(layers, heads, d_head, seed=seed).double(), random(layers, d_model, seed=seed + 1).double())
        mlp = SiteMeans(random(layers, neurons, 1, seed=seed + 2).double(), random(layers, d_model, seed=seed + 3).double())
        return ClassMeans(10, attn, mlp)

    return Means(one(seed), one(seed + 10), provenance())


def directions(seed: int = 0, *, weights: str = "w", layers: int = 3, d_model: int = 8) -> Directions:
    """Directions of random numbers."""
    attn, mlp = (SiteDirections.from_vectors(random(layers, d_model, seed=seed + i)) for i in (100, 200))
    return Directions(attn, mlp, means(layers=layers, d_model=d_model, seed=seed), "random", provenance(weights))


def site_edit(lam: torch.Tensor, d_in: int, seed: int = 0, d_model: int = 8) -> SiteEdit:
    k = random(*lam.shape, d_in, seed=seed + 5)
    k = k.sign() if d_in == 1 else k / k.norm(dim=-1, keepdim=True)
    return SiteEdit(u=random(len(lam), d_model, seed=seed + 6), k=k, lam=lam)


def sparse(*shape: int, keep: float = 0.3, seed: int = 0) -> torch.Tensor:
    """λ of some components; the others are 0."""
    values = random(*shape, seed=seed)
    return torch.where(random(*shape, seed=seed + 1).abs() < keep, values, 0.0)


def edit(seed: int = 0, layers: int = 3, heads: int = 4, neurons: int = 20) -> Edit:
    """An edit of random sparse λ at both sites."""
    attn = site_edit(sparse(layers, heads, keep=0.6, seed=seed), 5, seed)
    mlp = site_edit(sparse(layers, neurons, seed=seed + 50), 1, seed)
    return Edit((attn,), (mlp,), provenance())
