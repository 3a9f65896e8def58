"""Scores: their identities, and what an ablation of the component does."""

import pytest
import torch
from torch.testing import assert_close

from s2e_lens import attribute
from s2e_lens.attribution import contrast, contribution, cosine
from s2e_lens.errors import MismatchError, ShapeError
from s2e_lens.results import SITES, Attribution, Provenance, Site
from tests.helpers import tiny_directions, tiny_means
from tests.tiny import DENSE, tiny_model


@pytest.mark.parametrize("family", DENSE)
def test_contributions_and_bias_add_up_to_the_mean_output_along_v(family: str) -> None:
    model = tiny_model(family)
    directions = tiny_directions(model)
    scores = attribute(model, directions, score=contribution)
    for site in SITES:
        for layer in range(2):
            unit, bias = directions[site].unit[layer].double(), model.bias(site, layer)
            want = float(unit @ directions.means.outputs(site)[layer])
            fixed = 0.0 if bias is None else float(unit @ bias.detach().double())
            total = float(scores[site][layer].double().sum())
            assert total + fixed == pytest.approx(want, abs=1e-5)
            if fixed:  # negative control: without the bias it does not add up
                assert abs(total - want) > 1e-4


@pytest.mark.parametrize("family", DENSE)
def test_contrasts_add_up_to_the_length_of_v(family: str) -> None:
    model = tiny_model(family)
    directions = tiny_directions(model)
    scores = attribute(model, directions, score=contrast)
    for site in SITES:
        assert_close(scores[site].sum(dim=-1), directions[site].norm, atol=1e-5, rtol=0)
    assert (attribute(model, directions, score=contribution)["mlp"].sum(-1) - directions.mlp.norm).abs().max() > 1e-2


def test_cosine_is_the_cosine_of_what_each_head_and_neuron_writes() -> None:
    model = tiny_model("gpt2")
    directions = tiny_directions(model)
    got = attribute(model, directions)
    z, post = directions.means.inputs("attn").float(), directions.means.inputs("mlp").float()
    for layer in range(2):
        for head in range(4):
            written = z[layer, head] @ model.W_O[layer][head].detach()
            want = torch.nn.functional.cosine_similarity(written, directions.attn.unit[layer], dim=0)
            assert got.heads[layer, head] == pytest.approx(float(want), abs=1e-5)
        for neuron in range(0, 192, 17):
            cos = torch.nn.functional.cosine_similarity(model.W_out[layer][neuron].detach(), directions.mlp.unit[layer], dim=0)
            want = float(post[layer, neuron, 0].sign() * cos)
            assert got.neurons[layer, neuron] == pytest.approx(want, abs=1e-5)
    assert got.heads.abs().max() <= 1 + 1e-6


def test_the_cosine_has_no_scale_even_for_a_nearly_silent_neuron() -> None:
    W, unit = torch.randn(5, 1, 8), torch.nn.functional.normalize(torch.randn(8), dim=0)
    x = torch.tensor([[1.0], [1e-30], [-1e-30], [1e30], [0.0]])
    W[1:4] = W[0]
    got = cosine(W, unit, x, x)
    assert_close(got[1], got[0])
    assert_close(got[2], -got[0])
    assert_close(got[3], got[0])
    assert got[4] == 0


@pytest.mark.parametrize(("site", "layer", "index"), [("attn", 1, 2), ("attn", 0, 3), ("mlp", 1, 40), ("mlp", 0, 7)])
def test_the_contribution_predicts_what_ablating_the_component_does(site: Site, layer: int, index: int) -> None:
    """Intervene: take a component's write out of the raw output, measure the means again, and compare with its score."""
    model = tiny_model("llama")
    directions = tiny_directions(model)
    weight = model.weight(site, layer)[index].detach()

    def ablate(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y - x[:, :, index] @ weight

    with model.intercept({(site, layer): ablate}):
        ablated = tiny_means(model)
    change = (ablated.outputs(site) - directions.means.outputs(site))[layer]
    score = attribute(model, directions, score=contribution)[site][layer, index]
    assert float(change @ directions[site].unit[layer].double()) == pytest.approx(-float(score), abs=1e-5)
    assert abs(float(score)) > 1e-4


def test_top_ranks_by_magnitude_with_labels() -> None:
    heads, neurons = torch.zeros(6, 4), torch.zeros(6, 2000)
    heads[5, 3], neurons[5, 1234], neurons[0, 7] = 0.5, -0.9, 0.1
    attribution = Attribution(heads, neurons, "cosine", Provenance("m", "h", "float32"))
    assert [component.label for component in attribution.top(3)] == ["L5N1234", "L5H3", "L0N7"]
    assert attribution.top(3)[0].score == pytest.approx(-0.9)
    assert [component.label for component in attribution.top(1, site="attn")] == ["L5H3"]
    assert len(attribution.top(100_000)) == 6 * 2004


def test_a_mixture_of_experts_has_heads_and_no_neurons() -> None:
    model = tiny_model("mixtral")
    found = attribute(model, tiny_directions(model))
    assert found.neurons.shape == (2, 0)
    assert found.heads.abs().max() > 0
    assert all(component.site == "attn" for component in found.top(50))


def test_directions_of_other_weights_are_refused_unless_forced() -> None:
    directions = tiny_directions(tiny_model(seed=0))
    other = tiny_model(seed=1)
    with pytest.raises(MismatchError, match="measured on weights"):
        attribute(other, directions)
    assert attribute(other, directions, force=True).heads.shape == (2, 4)


def test_directions_of_another_shape_are_refused_even_when_forced() -> None:
    with pytest.raises(ShapeError, match="d_model"):
        attribute(tiny_model("gpt2"), tiny_directions(tiny_model("llama")), force=True)


def test_another_dtype_is_another_model_and_the_message_names_it() -> None:
    directions = tiny_directions(tiny_model())
    with pytest.raises(MismatchError, match="bfloat16"):
        attribute(tiny_model(dtype=torch.bfloat16), directions)
