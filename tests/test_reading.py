"""What a model shows of itself: attention, residuals, norms, and the linear map from a write to the logits."""

import pytest
import torch
import transformers
from torch.testing import assert_close

from s2e_lens import edit_as_hooks, load_model, steered
from s2e_lens.errors import ModelError
from s2e_lens.models.norms import norm_of
from s2e_lens.results import Component, component_label, library_versions, parse_component
from tests.helpers import tiny_directions, tiny_edit
from tests.tiny import COMMON, DENSE, FAMILIES, tiny_hf, tiny_model, tiny_tokenizer

IDS = [1, 9, 40, 77, 100, 12, 5, 63]
POST_NORMED = ("gemma2", "gemma3", "olmo2")


def transformer_lens_version() -> str:
    return library_versions()["transformer-lens"]


def plain(family: str, **options: bool):
    with torch.no_grad():
        return tiny_hf(family)(torch.tensor([IDS]), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_what_the_plain_model_gives(family: str) -> None:
    model = tiny_model(family)
    got, want = model.attention(IDS), torch.cat(plain(family, output_attentions=True).attentions)
    assert got.shape == (2, 4, len(IDS), len(IDS))
    assert_close(got, want, atol=1e-5, rtol=0)
    assert_close(got.sum(dim=-1), torch.ones(2, 4, len(IDS)), atol=1e-5, rtol=0)
    assert not got.triu(1).any(), "nothing is taken of later tokens"
    assert_close(model.attention(IDS, [1])[0], got[1], atol=0, rtol=0)
    assert (got[0] - got[1]).abs().max() > 0.01, "the layers do differ"


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_are_the_plain_models_hidden_states(family: str) -> None:
    model = tiny_model(family)
    got, want = model.residuals(IDS), plain(family, output_hidden_states=True).hidden_states
    assert_close(got[0], want[1][0], atol=1e-4, rtol=1e-5)
    # The plain model hands out its last hidden state after the final norm.
    norm = model.final_norm
    assert_close(norm.linear(got[1]) / norm.scale(got[1])[:, None] + norm.bias, want[2][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_block_adds_is_the_raw_output_through_its_post_norm(family: str) -> None:
    """The residual after a block is the one before it plus both sites' outputs, each through the norm that is named for it."""
    model, seen = tiny_model(family), {}
    with model.intercept({place: (lambda x, y, place=place: seen.__setitem__(place, y[0])) for place in model.shapes.places}):
        residuals = model.residuals(IDS)
    total = residuals[0]
    for site in ("attn", "mlp"):
        y, norm = seen[site, 1], model.post_norm(site, 1)
        assert (norm is not None) == (family in POST_NORMED)
        total = total + (y if norm is None else norm.linear(y) / norm.scale(y)[:, None] + norm.bias)
    assert_close(total, residuals[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_norms_and_the_unembedding_give_the_models_own_logits(family: str) -> None:
    model = tiny_model(family)
    last, norm = model.residuals(IDS)[-1], model.final_norm
    bias = tiny_hf(family).get_output_embeddings().bias
    logits = model.unembed(norm.linear(last) / norm.scale(last)[:, None] + norm.bias) + (0 if bias is None else bias.detach())
    want = plain(family).logits[0]
    if family == "gemma2":  # its head ends in a soft cap, which the linear part leaves out
        logits = 30.0 * (logits / 30.0).tanh()
    assert_close(logits, want, atol=2e-4, rtol=1e-4)
    assert norm.centred == (family == "gpt2")
    assert (model.unembed(last) - want).abs().max() > 0.01, "without the norm they differ"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("width", [2, 7, 48])
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-3])
def test_a_norm_is_found_by_asking_it(family: str, width: int, eps: float) -> None:
    kind = type(tiny_model(family).bridge.ln_final.original_component)
    module = kind(width, eps=eps)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    norm, x = norm_of(module, width), torch.randn(5, width) * torch.tensor([[1e-2], [0.1], [1.0], [10.0], [1e3]])
    assert_close(norm.linear(x) / norm.scale(x)[:, None] + norm.bias, module(x).detach(), atol=1e-3, rtol=1e-3)
    assert norm.eps == pytest.approx(eps, rel=0.02)
    assert norm.centred == (family == "gpt2")


def test_what_is_not_a_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="neither an RMSNorm nor a LayerNorm"):
        norm_of(torch.nn.Linear(8, 8), 8)
    with pytest.raises(ModelError, match="offloaded"):
        norm_of(torch.nn.LayerNorm(8, device="meta"), 8)


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_multipliers_of_a_family_are_part_of_the_map(family: str) -> None:
    if family == "cohere" and transformer_lens_version().startswith("3."):
        pytest.skip("the bridge of transformer-lens 3.9 computes other logits than Cohere's own model")
    if family == "granite":
        config = transformers.GraniteConfig(**COMMON, residual_multiplier=0.3, logits_scaling=7.0, embedding_multiplier=2.0)
        hf = transformers.GraniteForCausalLM(config).eval()
    else:
        config = transformers.CohereConfig(**COMMON, logit_scale=0.25)
        hf = transformers.CohereForCausalLM(config).eval()
    hf.config._attn_implementation = "eager"
    model = load_model(hf, tokenizer=tiny_tokenizer())
    last, norm, ids = model.residuals(IDS)[-1], model.final_norm, torch.tensor([IDS])
    want = model.logits(ids, torch.ones_like(ids))[0]
    assert_close(model.unembed(norm.linear(last) / norm.scale(last)[:, None] + norm.bias), want, atol=1e-4, rtol=1e-4)
    assert model.logit_scale != 1.0
    seen = {}
    with model.intercept({place: (lambda x, y, place=place: seen.__setitem__(place, y[0])) for place in model.shapes.places}):
        residuals = model.residuals(IDS)
    added = model.residual_scale * (seen["attn", 1] + seen["mlp", 1])
    assert_close(residuals[0] + added, residuals[1], atol=1e-4, rtol=1e-4)


def test_reading_sees_what_is_intercepted_and_leaves_nothing_behind() -> None:
    model = tiny_model()
    directions, attention, residuals = tiny_directions(model), model.attention(IDS), model.residuals(IDS)
    with steered(model, directions, 1.0):
        assert (model.attention(IDS)[1] - attention[1]).abs().max() > 1e-3
        assert (model.residuals(IDS) - residuals).abs().max() > 0.1
    with edit_as_hooks(model, tiny_edit(model)):
        assert (model.residuals(IDS) - residuals).abs().max() > 1e-3
    assert torch.equal(model.residuals(IDS), residuals)
    assert torch.equal(model.attention(IDS), attention)
    assert not model.intercepted


def test_a_response_can_be_told_from_a_prompt_while_reading() -> None:
    model = tiny_model()
    directions, base = tiny_directions(model), model.residuals(IDS)

    def changed(**options: int) -> list[bool]:
        with steered(model, directions, 1.0, sites=("mlp",), layers=(1,), positions="response"):
            return ((model.residuals(IDS, **options) - base)[1].norm(dim=-1) > 1e-3).tolist()

    assert changed(start=5) == [False] * 4 + [True] * 4
    assert changed() == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "no token"), ([1] * 129, "129 tokens does not fit the context of 128"), ([1, 128], "between 0 and 127"), ([-1], "-1")],
)
def test_texts_that_cannot_be_read_are_refused(ids: list[int], message: str) -> None:
    model = tiny_model()
    for read in (model.attention, model.residuals):
        with pytest.raises(ModelError, match=message):
            read(ids)


def test_layers_that_are_not_there_are_refused() -> None:
    for layers in ([2], [-1], []):
        with pytest.raises(ModelError, match="layers 0 to 1"):
            tiny_model().attention(IDS, layers)


@pytest.mark.parametrize("label", ["L0H3", "L1N79", "l1h0", " L0N5 "])
def test_labels_name_components(label: str) -> None:
    site, layer, index = tiny_model().shapes.locate(label)
    assert component_label(site, layer, index) == label.strip().upper()
    assert tiny_model().shapes.locate(Component(site, layer, index, 0.5)) == (site, layer, index)


@pytest.mark.parametrize("label", ["", "L5", "H3", "L1H", "L-1H0", "L1X2", "L1H3 L1H2", "L٣H1", "<script>", "L1H1.0"])
def test_what_names_no_component_is_refused(label: str) -> None:
    with pytest.raises(ModelError, match="names no component"):
        parse_component(label)


def test_components_that_are_not_there_are_refused() -> None:
    for label, message in (("L2H0", "layers 0 to 1 with heads 0 to 3"), ("L0H4", "heads 0 to 3"), ("L0N80", "neurons 0 to 79")):
        with pytest.raises(ModelError, match=message):
            tiny_model().shapes.locate(label)
    with pytest.raises(ModelError, match="no neurons"):
        tiny_model("mixtral").shapes.locate("L0N0")


@pytest.mark.parametrize("family", DENSE)
def test_bfloat16_models_can_be_read(family: str) -> None:
    model = tiny_model(family, torch.bfloat16)
    assert model.attention(IDS).dtype == model.residuals(IDS).dtype == model.final_norm.gain.dtype == torch.float32
    assert model.unembed(torch.randn(2, 48)).isfinite().all()
