"""Steering vectors from means. A method is a callable ``(means, site) -> [layer, d_model]``; write your own."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.errors import DirectionError, MismatchError
from s2e_lens.results import SITES, Directions, Means, Site, SiteDirections

Method = Callable[[Means, Site], Float[Tensor, "layer d_model"]]
Pair = tuple[Float[Tensor, "positive layer d_model"], Float[Tensor, "negative layer d_model"]]


def find_directions(means: Means, *, method: Method | None = None) -> Directions:
    """Steering vectors of both sites and every layer.

    Args:
        means: what :func:`~s2e_lens.activations.collect_means` gave.
        method: :func:`difference_of_means` (the published one, and the default), :func:`first_component`,
            :func:`logistic_probe`, ``mean_centred(background)``, or any callable of that form.

    Returns:
        unit vectors [layer, d_model] and norms [layer] per site; the means stay with them.

    Raises:
        DirectionError: if the two classes are identical (every vector is zero), or a vector holds NaN.
    """
    chosen = method or difference_of_means
    name = getattr(chosen, "__name__", type(chosen).__name__)
    attn, mlp = (SiteDirections.from_vectors(chosen(means, site)) for site in SITES)
    if not (attn.norm.any() or mlp.norm.any()):
        raise DirectionError(
            "every steering vector is zero: the positive and negative examples give identical activations. "
            "Are the two classes copies of each other, or their responses one token after the same prompt?"
        )
    return Directions(attn, mlp, means, name, means.provenance.with_settings(method=name))


def difference_of_means(means: Means, site: Site) -> Float[Tensor, "layer d_model"]:
    """v = mean_pos(y) - mean_neg(y), of the raw projection outputs (Steer2Edit, arXiv 2602.09870)."""
    return means.positive[site].outputs - means.negative[site].outputs


def mean_centred(background: Means) -> Method:
    """v = mean_pos(y) - mean(y over both classes of a background set), mean-centring (arXiv 2312.03813).

    The negatives of ``means`` do not enter; the background stands for what the model usually does.
    """

    def mean_centred_difference(means: Means, site: Site) -> Float[Tensor, "layer d_model"]:
        if background.provenance.weight_hash != means.provenance.weight_hash:
            raise MismatchError(
                f"the background was measured on weights {background.provenance.weight_hash}, and the examples on "
                f"{means.provenance.weight_hash}: collect both on one model, in one dtype."
            )
        other = [background.positive, background.negative]
        total = sum(each.count for each in other)
        centre = sum((each[site].outputs * (each.count / total) for each in other), torch.zeros(()))
        return means.positive[site].outputs - centre

    mean_centred_difference.__name__ = f"mean_centred[background {background.provenance.data_hash}]"
    return mean_centred_difference


def first_component(means: Means, site: Site) -> Float[Tensor, "layer d_model"]:
    """First principal component (uncentred) of the paired differences y_pos[i] - y_neg[i] (as in arXiv 2310.01405).

    The i-th positive example is paired with the i-th negative one. Signed to agree with the difference of means d, and
    of length d·ŵ, so that strengths compare with :func:`difference_of_means`.

    Raises:
        DirectionError: if the classes differ in size, or were collected without ``keep_examples``.
    """
    positive, negative = _per_example(means, site)
    if len(positive) != len(negative):
        raise DirectionError(
            f"paired differences need as many positive as negative examples, in the same order; there are {len(positive)} "
            f"and {len(negative)}. Balance the file, or use difference_of_means."
        )
    differences = (positive - negative).transpose(0, 1)
    components = torch.linalg.svd(differences, full_matrices=False).Vh[:, 0]
    return _along(components, difference_of_means(means, site))


def logistic_probe(means: Means, site: Site) -> Float[Tensor, "layer d_model"]:
    """The normal of a logistic probe between the classes (standardised inputs, L2 with C = 1), as in arXiv 2306.03341.

    Signed to agree with the difference of means d, and of length d·ŵ.

    Raises:
        DirectionError: if the means were collected without ``keep_examples``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    positive, negative = _per_example(means, site)
    labels = [1] * len(positive) + [0] * len(negative)
    normals = []
    for layer in range(positive.shape[1]):
        scaler, probe = StandardScaler(), LogisticRegression(max_iter=1000)
        probe.fit(scaler.fit_transform(torch.cat([positive[:, layer], negative[:, layer]]).numpy()), labels)
        normals.append(torch.from_numpy(probe.coef_[0] / scaler.scale_))
    return _along(torch.stack(normals), difference_of_means(means, site))


METHODS: dict[str, Method] = {
    "difference-of-means": difference_of_means,
    "first-component": first_component,
    "logistic-probe": logistic_probe,
}
"""Methods by the name that the command line uses; ``mean-centred`` needs a background as well."""

first_component.per_example = True  # pyright: ignore[reportFunctionMemberAccess]
logistic_probe.per_example = True  # pyright: ignore[reportFunctionMemberAccess]


def needs_examples(method: Method | None) -> bool:
    """Whether a method needs ``keep_examples``: whether it has an attribute ``per_example`` that is true."""
    return bool(getattr(method, "per_example", False))


def _along(axis: Float[Tensor, "layer d_model"], difference: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """The part of each difference that lies along its axis: ŵ (ŵ·d)."""
    unit = torch.nn.functional.normalize(axis, dim=-1)
    return unit * (unit * difference).sum(dim=-1, keepdim=True)


def _per_example(means: Means, site: Site) -> Pair:
    kept = [each.examples for each in (means.positive, means.negative)]
    if kept[0] is None or kept[1] is None:
        raise DirectionError(
            "this method needs each example's own mean, and only the class means were kept. "
            "Collect with collect_means(..., keep_examples=True); the command line does so for such methods."
        )
    return kept[0][site], kept[1][site]
