"""Which heads and neurons carry a steering vector: one score per component.

A score is a callable ``(W, unit, mean, difference) -> [component]`` for one layer and site, where W is
[component, d_in, d_model], unit is v̂, mean is x̄ and difference is mean_pos(x) - mean_neg(x).
"""

from collections.abc import Callable

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from s2e_lens.errors import MismatchError, ShapeError
from s2e_lens.models import LensModel
from s2e_lens.precision import exact
from s2e_lens.results import SITES, Attribution, Directions, Means, Site

Score = Callable[
    [
        Float[Tensor, "component d_in d_model"],
        Float[Tensor, " d_model"],
        Float[Tensor, "component d_in"],
        Float[Tensor, "component d_in"],
    ],
    Float[Tensor, " component"],
]

CHUNK_ROWS = 4096
"""Rows of W that are widened to float32 at a time."""


def cosine(
    W: Float[Tensor, "component d_in d_model"],
    unit: Float[Tensor, " d_model"],
    mean: Float[Tensor, "component d_in"],
    difference: Float[Tensor, "component d_in"],
) -> Float[Tensor, " component"]:
    """g = cos(v̂, W x̄), in [-1, 1]: the published score (arXiv 2602.09870).

    For a neuron this is sign(x̄) cos(v̂, W_out): the size of x̄ drops out. A component that writes nothing scores 0.
    """
    largest = mean.abs().amax(dim=-1, keepdim=True)  # a cosine has no scale: divide, so that no square underflows
    direction = torch.where(largest > 0, mean / largest.clamp_min(torch.finfo(mean.dtype).tiny), 0.0)
    written = einsum(direction, W, "component d_in, component d_in d_model -> component d_model")
    size = written.norm(dim=-1)
    return torch.where(size > 0, (written @ unit) / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)


def contribution(
    W: Float[Tensor, "component d_in d_model"],
    unit: Float[Tensor, " d_model"],
    mean: Float[Tensor, "component d_in"],
    difference: Float[Tensor, "component d_in"],
) -> Float[Tensor, " component"]:
    """v̂·W x̄: what a component writes along v on average. Over a site, these and v̂·b add up to v̂·ȳ."""
    return einsum(mean, W @ unit, "component d_in, component d_in -> component")


def contrast(
    W: Float[Tensor, "component d_in d_model"],
    unit: Float[Tensor, " d_model"],
    mean: Float[Tensor, "component d_in"],
    difference: Float[Tensor, "component d_in"],
) -> Float[Tensor, " component"]:
    """v̂·W (mean_pos(x) - mean_neg(x)): a component's share of the steering vector.

    Over a site these add up to ‖v‖ (for the difference of means; for another method, to v̂·(mean_pos(y) - mean_neg(y))).
    """
    return einsum(difference, W @ unit, "component d_in, component d_in -> component")


SCORES: dict[str, Score] = {"cosine": cosine, "contribution": contribution, "contrast": contrast}
"""Scores by the name that the command line uses."""


def attribute(model: LensModel, directions: Directions, *, score: Score = cosine, force: bool = False) -> Attribution:
    """Score every head and every neuron of the model that the directions were measured on.

    Returns:
        float32 scores: heads [layer, head], neurons [layer, neuron] (no neuron in a mixture of experts).

    Raises:
        MismatchError: if the directions come from other weights (``force`` allows it).
        ShapeError: if they come from a model of another shape.
    """
    check_measured_on(model, directions, force=force)
    scores = {site: _score_site(model, directions, site, score) for site in SITES}
    name = getattr(score, "__name__", type(score).__name__)
    return Attribution(scores["attn"], scores["mlp"], name, directions.provenance.with_settings(score=name))


def _score_site(model: LensModel, directions: Directions, site: Site, score: Score) -> Float[Tensor, "layer component"]:
    n, _ = model.shapes.components(site)
    if n == 0:
        return torch.zeros(model.shapes.n_layers, 0)
    mean, difference = directions.means.inputs(site), directions.means.input_difference(site)
    rows = []
    for layer in range(model.shapes.n_layers):
        W = model.weight(site, layer).detach()
        unit = directions[site].unit[layer].to(W.device)
        step = max(1, CHUNK_ROWS // W.shape[1])
        with exact(W.device):
            chunks = [
                score(W[i : i + step].float(), unit, *(x[layer, i : i + step].float().to(W.device) for x in (mean, difference)))
                for i in range(0, n, step)
            ]
        rows.append(torch.cat(chunks).cpu())
    return torch.stack(rows)


def check_measured_on(model: LensModel, directions: Directions, *, force: bool = False) -> None:
    """Refuse directions of another model, or of other weights unless forced.

    Raises:
        ShapeError: if the shapes differ (never forced).
        MismatchError: if the weight hashes differ.
    """
    for site in SITES:
        want = (model.shapes.n_layers, *model.shapes.components(site), model.shapes.d_model)
        inputs, unit = directions.means.positive[site].inputs, directions[site].unit
        got = (*inputs.shape, unit.shape[-1])
        if got != want or unit.shape[0] != want[0]:
            raise ShapeError(
                f"the {site} directions are for [layer, component, d_in, d_model] = {list(got)}; {model.name} has {list(want)}. "
                "Extract them on this model."
            )
    check_weights(model, directions.provenance.weight_hash, what="directions were measured", force=force)


def check_means(model: LensModel, means: Means, *, force: bool = False) -> None:
    """Refuse means of another model, or of other weights unless forced.

    Raises:
        ShapeError: if the shapes differ (never forced).
        MismatchError: if the weight hashes differ.
    """
    for site in SITES:
        got, want = tuple(means.positive[site].inputs.shape), (model.shapes.n_layers, *model.shapes.components(site))
        if got != want:
            raise ShapeError(f"the {site} means are of shape {list(got)}; {model.name} has {list(want)}. Collect them on it.")
    check_weights(model, means.provenance.weight_hash, what="means were taken", force=force)


def check_weights(model: LensModel, measured: str, *, what: str, force: bool) -> None:
    """Raise MismatchError unless the model's weights are those that something was measured on."""
    if force:
        return
    now = model.weight_hash()
    if now == measured:
        return
    carried = f" These weights carry an edit already: {model.carries_edit}." if model.carries_edit else ""
    raise MismatchError(
        f"the {what} on weights {measured}, and {model.name} ({model.dtype}) has {now} now.{carried} Load the same checkpoint in "
        "the same dtype, without an edit, or measure again on this one (force, --force, skips this check)."
    )
