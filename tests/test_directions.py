"""Directions: published and other methods, against oracles written out."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from s2e_lens import collect_means, find_directions
from s2e_lens.directions import METHODS, difference_of_means, first_component, logistic_probe, mean_centred
from s2e_lens.errors import DirectionError, MismatchError
from s2e_lens.results import SITES, ClassMeans, Means, Provenance, SiteDirections, SiteMeans
from tests.helpers import tiny_examples, tiny_means
from tests.tiny import tiny_model


def separated(count: int = 40, *, seed: int = 0) -> tuple[Means, torch.Tensor]:
    """Per-example outputs of one layer whose classes differ along a known axis, in noise; and that axis."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.nn.functional.normalize(torch.randn(16, generator=generator, dtype=torch.float64), dim=0)
    classes = []
    for sign in (1.0, -1.0):
        each = 0.3 * torch.randn(count, 1, 16, generator=generator, dtype=torch.float64) + sign * axis
        site = SiteMeans(torch.zeros(1, 2, 3, dtype=torch.float64), each.mean(dim=0))
        classes.append(ClassMeans(count, site, site, {"attn": each, "mlp": each}))
    return Means(classes[0], classes[1], Provenance("m", "h", "float32")), axis


def test_the_published_direction_is_the_difference_of_class_means() -> None:
    means = tiny_means(tiny_model())
    directions = find_directions(means)
    for site in SITES:
        want = means.positive[site].outputs - means.negative[site].outputs
        assert_close(directions[site].vectors.double(), want, atol=1e-6, rtol=0)
        assert_close(directions[site].unit.norm(dim=-1), torch.ones(2))
    assert directions.method == "difference_of_means"


@pytest.mark.parametrize("method", METHODS.values())
def test_every_method_finds_a_planted_axis_and_its_sign(method) -> None:
    means, axis = separated()
    directions = find_directions(means, method=method)
    assert float(directions.attn.unit[0].double() @ axis) > 0.9
    assert 1.5 < float(directions.attn.norm[0]) < 2.5  # the classes are 2 apart along the axis


def test_the_first_component_is_numpys() -> None:
    means, _ = separated()
    pairs = (means.positive.examples["attn"] - means.negative.examples["attn"])[:, 0].numpy()
    values, vectors = np.linalg.eigh(pairs.T @ pairs)
    cosine = first_component(means, "attn")[0].numpy() @ vectors[:, values.argmax()]
    assert abs(cosine) == pytest.approx(float(first_component(means, "attn")[0].norm()), rel=1e-9)


def test_the_probe_separates_held_out_examples_better_than_a_random_axis() -> None:
    means, _ = separated(seed=1)
    unseen, _ = separated(seed=1)
    axis = find_directions(means, method=logistic_probe).attn.unit[0].double()
    scores = [each.examples["attn"][:, 0] @ axis for each in (unseen.positive, unseen.negative)]
    assert scores[0].min() > scores[1].max()
    random = [each.examples["attn"][:, 0] @ torch.eye(16, dtype=torch.float64)[0] for each in (unseen.positive, unseen.negative)]
    assert random[0].min() < random[1].max()


def test_mean_centring_subtracts_the_background_and_leaves_the_negatives_out() -> None:
    means, _ = separated(seed=0)
    background, _ = separated(count=10, seed=5)
    got = mean_centred(background)(means, "attn")
    centre = (background.positive.attn.outputs + background.negative.attn.outputs) / 2
    assert_close(got, means.positive.attn.outputs - centre)
    changed = dataclasses.replace(means, negative=background.negative)
    assert torch.equal(mean_centred(background)(changed, "attn"), got)
    assert not torch.equal(difference_of_means(changed, "attn"), difference_of_means(means, "attn"))


@pytest.mark.parametrize("method", [first_component, logistic_probe])
def test_methods_that_need_each_example_say_so(method) -> None:
    with pytest.raises(DirectionError, match="keep_examples"):
        find_directions(tiny_means(tiny_model()), method=method)
    examples = collect_means(tiny_model(), tiny_examples(), keep_examples=True)
    assert torch.isfinite(find_directions(examples, method=method).attn.unit).all()


def test_paired_differences_need_as_many_of_each() -> None:
    means, _ = separated()
    fewer = dataclasses.replace(means.positive, examples={site: e[:-1] for site, e in means.positive.examples.items()})
    with pytest.raises(DirectionError, match="39 and 40"):
        first_component(dataclasses.replace(means, positive=fewer), "attn")


def test_identical_classes_have_no_direction() -> None:
    means = tiny_means(tiny_model())
    with pytest.raises(DirectionError, match="identical"):
        find_directions(dataclasses.replace(means, negative=means.positive))


def test_nan_is_an_error_that_names_the_layers() -> None:
    vectors = torch.ones(3, 4, dtype=torch.float64)
    vectors[1, 2] = float("nan")
    with pytest.raises(DirectionError, match=r"layers \[1\]"):
        SiteDirections.from_vectors(vectors)


def test_a_zero_vector_has_norm_zero_and_no_nan() -> None:
    found = SiteDirections.from_vectors(torch.stack([torch.zeros(4), torch.ones(4)]).double())
    assert found.norm.tolist() == [0.0, 2.0]
    assert torch.equal(found.unit[0], torch.zeros(4))


def test_a_method_of_ones_own_is_a_function() -> None:
    means = tiny_means(tiny_model())

    def doubled(means: Means, site: str) -> torch.Tensor:
        return 2 * difference_of_means(means, site)

    mine, theirs = find_directions(means, method=doubled), find_directions(means)
    assert_close(mine.mlp.norm, 2 * theirs.mlp.norm)
    assert mine.method == "doubled"


def test_a_background_of_other_weights_is_refused() -> None:
    means, _ = separated()
    background = dataclasses.replace(means, provenance=dataclasses.replace(means.provenance, weight_hash="other"))
    with pytest.raises(MismatchError, match="background was measured on weights other"):
        mean_centred(background)(means, "attn")
