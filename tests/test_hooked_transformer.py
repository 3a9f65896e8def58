"""A user's HookedTransformer (transformer-lens 3.9; removed in 4.0): the same edits, weights and logits as the bridge."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from s2e_lens import (
    collect_means,
    edit_as_hooks,
    edited,
    find_directions,
    load_model,
    plan_edit,
    prepare_edit,
    read_examples,
    steered,
)
from s2e_lens import tokenize_examples as tokenize
from s2e_lens.errors import FrameError, MismatchError, ModelError, StorageError
from s2e_lens.export import export_checkpoint, export_lora
from s2e_lens.models import LensModel
from s2e_lens.readout import ablation_effect, activations, direct_logits, firings, measure_scales, next_tokens, projections
from s2e_lens.results import SITES
from tests.helpers import probe_logits, tiny_directions, tiny_edit
from tests.tiny import PARITY, needs_parity, tiny_hf, tiny_model, tiny_tokenizer

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions as convert
except ImportError:
    pytest.skip("transformer-lens 4 has no HookedTransformer: this file runs on 3.9", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RAW = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
CONVERTERS = {
    "llama": "convert_llama_weights",
    "mistral": "convert_mistral_weights",
    "gemma2": "convert_gemma_weights",
    "qwen2": "convert_qwen2_weights",
    "qwen3": "convert_qwen3_weights",
    "gpt2": "convert_gpt2_weights",
}


def hooked_transformer(hf: Any, tokenizer: Any, **processing: bool) -> HookedTransformer:
    """A HookedTransformer with the weights of a Hugging Face model, unprocessed unless asked for."""
    config = hf.config
    family = config.model_type
    if family == "gpt2":
        options = {
            "d_model": config.n_embd,
            "n_heads": config.n_head,
            "d_head": config.n_embd // config.n_head,
            "d_mlp": 4 * config.n_embd,
            "n_layers": config.n_layer,
            "n_ctx": config.n_positions,
            "eps": config.layer_norm_epsilon,
            "act_fn": "gelu_new",
            "normalization_type": "LN",
        }
    else:
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        options = {
            "d_model": config.hidden_size,
            "n_heads": config.num_attention_heads,
            "n_key_value_heads": config.num_key_value_heads,
            "d_head": d_head,
            "d_mlp": config.intermediate_size,
            "n_layers": config.num_hidden_layers,
            "n_ctx": config.max_position_embeddings,
            "eps": config.rms_norm_eps,
            "act_fn": "silu",
            "normalization_type": "RMS",
            "positional_embedding_type": "rotary",
            "rotary_base": 10000,
            "rotary_adjacent_pairs": False,
            "rotary_dim": d_head,
            "final_rms": True,
            "gated_mlp": True,
        }
    if family == "gemma2":
        options |= {
            "act_fn": "gelu_pytorch_tanh",
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "attn_scale": config.query_pre_attn_scalar**0.5,
            "use_attn_scale": True,
            "use_normalization_before_and_after": True,
        }
    if family == "qwen3":
        options["use_qk_norm"] = True
    hooked = HookedTransformer(
        HookedTransformerConfig(**options, d_vocab=config.vocab_size, original_architecture=type(hf).__name__, device="cpu"),
        tokenizer=copy.deepcopy(tokenizer),
        move_to_device=False,
    )
    state = getattr(convert, CONVERTERS[family])(hf, hooked.cfg)
    hooked.load_and_process_state_dict(state, **{**RAW, **processing})
    return hooked


def tokenizer_for_hooked() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs |= {"name_or_path": "in-memory", "add_bos_token": True}
    return tokenizer


def loaded(family: str = "llama", **processing: bool) -> LensModel:
    hf = tiny_hf(family)
    return load_model(hooked_transformer(hf, tokenizer_for_hooked(), **processing), tokenizer=tiny_tokenizer(), hf_model=hf)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_it_is_the_same_model_as_the_bridge(family: str) -> None:
    hooked, bridge = loaded(family), tiny_model(family)
    assert hooked.shapes == bridge.shapes
    assert hooked.weight_hash() != bridge.weight_hash()  # its own layout: directions of the one are refused on the other
    assert hooked.module_names == bridge.module_names
    assert_close(probe_logits(hooked).log_softmax(-1), probe_logits(bridge).log_softmax(-1), atol=2e-4, rtol=0)
    for site in SITES:
        mine, theirs = tiny_directions(hooked)[site], tiny_directions(bridge)[site]
        assert_close(mine.vectors, theirs.vectors, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_it_shows_the_same_of_itself_as_the_bridge(family: str) -> None:
    """Attention, residuals, norms and the map from a write to the logits."""
    hooked, bridge, ids = loaded(family), tiny_model(family), [1, 9, 40, 77, 100]
    assert_close(hooked.attention(ids), bridge.attention(ids), atol=1e-4, rtol=0)
    assert_close(hooked.residuals(ids), bridge.residuals(ids), atol=1e-3, rtol=1e-4)
    assert (bridge.post_norm("attn", 0) is None) == (family != "gemma2")
    for place in hooked.shapes.places:
        mine, theirs = hooked.post_norm(*place), bridge.post_norm(*place)
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert_close(mine.gain, theirs.gain, atol=1e-4, rtol=1e-4)
    for mine, theirs in ((hooked.final_norm, bridge.final_norm),):
        assert_close(mine.gain, theirs.gain, atol=1e-4, rtol=1e-4)
        assert_close(mine.bias, theirs.bias, atol=1e-4, rtol=1e-4)
        assert mine.centred == theirs.centred
        assert mine.eps == pytest.approx(theirs.eps, rel=0.05)
    writes = torch.randn(3, 48)
    for place in hooked.shapes.places:
        scales = [measure_scales(each, [ids]) for each in (hooked, bridge)]
        mine, theirs = (direct_logits(each, writes, *place, scales=s) for each, s in zip((hooked, bridge), scales, strict=True))
        assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_the_post_norms_of_olmo2_are_found_under_their_names() -> None:
    config = HookedTransformerConfig(
        n_layers=2, d_model=48, n_heads=4, d_head=12, d_mlp=80, n_ctx=32, d_vocab=128, act_fn="silu", gated_mlp=True, seed=0,
        normalization_type="RMS", final_rms=True, positional_embedding_type="rotary", rotary_dim=12,
        original_architecture="Olmo2ForCausalLM", device="cpu",
    )  # fmt: skip
    hooked, seen = HookedTransformer(config, tokenizer=tokenizer_for_hooked(), move_to_device=False), {}
    with torch.no_grad():
        for parameter in hooked.parameters():
            parameter.normal_(std=0.3)
    model = load_model(hooked, tokenizer=tiny_tokenizer())
    with model.intercept({place: (lambda x, y, place=place: seen.__setitem__(place, y[0])) for place in model.shapes.places}):
        residuals = model.residuals([1, 9, 40, 77])
    total = residuals[0]
    for site in SITES:
        y, norm = seen[site, 1], model.post_norm(site, 1)
        total = total + norm.linear(y) / norm.scale(y)[:, None] + norm.bias
    assert_close(total, residuals[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_it_reads_texts_as_the_bridge_does(family: str) -> None:
    hooked, bridge, ids = loaded(family), tiny_model(family), [1, 9, 40, 77, 100]
    edit, directions = tiny_edit(bridge), tiny_directions(bridge)
    for read in (
        lambda model: projections(model, ids, directions, force=True)["mlp"],
        lambda model: firings(model, ids, edit, force=True)["attn"],
        lambda model: activations(model, ids, ["L0H1", "L1N3"]),
        lambda model: next_tokens(model, ids).probabilities,
        lambda model: ablation_effect(model, ids, ["L0H1", "L1N3"], directions=directions, force=True).kl,
    ):
        assert_close(read(hooked), read(bridge), atol=1e-3, rtol=1e-3)
    before = next_tokens(hooked, ids).probabilities
    with steered(hooked, directions, 1.0, force=True):
        assert (next_tokens(hooked, ids).probabilities - before).abs().max() > 1e-3
    assert torch.equal(next_tokens(hooked, ids).probabilities, before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_hooks_weights_checkpoint_and_lora_agree(family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    model = loaded(family)
    edit, before, prompts = tiny_edit(model), probe_logits(model), [[1, 9, 40], [1, 100, 101, 102, 103]]
    with edit_as_hooks(model, edit):
        hooked, hooked_tokens = probe_logits(model), model.generate(prompts, max_new_tokens=6)
    with edited(model, edit):
        folded, folded_tokens = probe_logits(model), model.generate(prompts, max_new_tokens=6)
    assert_close(hooked, folded, atol=2e-4, rtol=0)
    assert hooked_tokens == folded_tokens
    export_checkpoint(model, edit, tmp_path / "hf")
    export_lora(model, edit, tmp_path / "lora")
    assert torch.equal(probe_logits(model), before)
    untouched = dict(tiny_hf(family).named_parameters())
    assert all(torch.equal(p, untouched[name]) for name, p in model._hf.named_parameters())
    bridge = tiny_model(family)
    with edited(bridge, edit, force=True):
        want = {name: p.clone() for name, p in bridge.twin.named_parameters()}
        reference = probe_logits(bridge)
    checkpoint = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    for name, parameter in checkpoint.named_parameters():
        assert_close(parameter, want[name], atol=1e-6, rtol=0)
    adapted = PeftModel.from_pretrained(tiny_hf(family), tmp_path / "lora").merge_and_unload()
    for name, parameter in adapted.named_parameters():
        assert_close(parameter, want[name], atol=1e-6, rtol=0)
    assert_close(folded.log_softmax(-1), reference.log_softmax(-1), atol=3e-4, rtol=0)
    assert (folded - before).abs().max() > 0.05


@needs_parity
@pytest.mark.parametrize("case", ["llama", "mistral", "gemma2", "qwen2", "qwen3"])
def test_weights_and_logits_are_the_published_ones(case: str) -> None:
    folder = PARITY / case
    hf = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    tokenizer = load_model(folder / "model").text.tokenizer
    for_hooked = copy.deepcopy(tokenizer)
    for_hooked.init_kwargs |= {"name_or_path": "in-memory", "add_bos_token": True}
    model = load_model(hooked_transformer(hf, for_hooked), tokenizer=tokenizer, hf_model=hf)
    basis = prepare_edit(model, find_directions(collect_means(model, tokenize(model, read_examples(folder / "examples.jsonl")))))
    expected = load_file(folder / "expected.safetensors")
    ids = expected["input_ids"]
    mask = torch.ones_like(ids)
    for setting in json.loads((folder / "grid.json").read_text()):
        i = setting["index"]
        rhos = {f"rho_{site}": setting[f"rho_{site}"] for site in SITES if setting[f"rho_{site}"] > 0}
        with edited(model, plan_edit(basis, **rhos, alpha=setting["alpha"])):
            for (site, layer), name in model.module_names.items():
                key = "o_proj" if site == "attn" else "down_proj"
                got = model.weight(site, layer).detach().flatten(0, 1).T
                assert_close(got, expected[f"{key}.{i}.{layer}"], atol=3e-5, rtol=0, msg=name)
            assert_close(centred(model.logits(ids, mask)), centred(expected[f"logits.{i}"]), atol=2e-4, rtol=0)
            assert_close(model.twin(ids).logits, expected[f"logits.{i}"], atol=2e-4, rtol=0)


def centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


@pytest.mark.parametrize(("processing", "match"), [("fold_ln", "norms folded"), ("center_writing_weights", "centred writing")])
def test_processed_weights_are_refused(processing: str, match: str) -> None:
    with pytest.raises(FrameError, match=match):
        hf = tiny_hf("gpt2")
        hooked = hooked_transformer(hf, tokenizer_for_hooked(), **{processing: True})
        if processing == "fold_ln":
            hooked.cfg.normalization_type = "LNPre"  # what from_pretrained sets with it
        load_model(hooked, tokenizer=tiny_tokenizer())


def test_without_the_hugging_face_model_it_is_edited_and_not_exported(tmp_path: Path) -> None:
    hf = tiny_hf()
    model = load_model(hooked_transformer(hf, tokenizer_for_hooked()), tokenizer=tiny_tokenizer())
    edit, before = tiny_edit(model), probe_logits(model)
    with edited(model, edit):
        assert not torch.equal(probe_logits(model), before)
    assert torch.equal(probe_logits(model), before)
    for export in (export_checkpoint, export_lora):
        with pytest.raises(ModelError, match="hf_model=hf_model"):
            export(model, edit, tmp_path / export.__name__)


def test_the_wrong_hugging_face_model_is_refused() -> None:
    hooked = hooked_transformer(tiny_hf(seed=0), tokenizer_for_hooked())
    with pytest.raises(MismatchError, match="does not hold the same weights"):
        load_model(hooked, tokenizer=tiny_tokenizer(), hf_model=tiny_hf(seed=1))


@pytest.mark.parametrize("with_hf", [True, False])
def test_folded_value_biases_are_refused(with_hf: bool) -> None:
    hf = tiny_hf("gpt2")
    hooked = hooked_transformer(hf, tokenizer_for_hooked(), fold_value_biases=True)
    with pytest.raises(FrameError, match="fold_value_biases=False"):
        load_model(hooked, tokenizer=tiny_tokenizer(), hf_model=hf if with_hf else None)


def test_centred_weights_are_refused_in_bfloat16_too() -> None:
    hooked = hooked_transformer(tiny_hf("gpt2"), tokenizer_for_hooked(), center_writing_weights=True)
    hooked.to(torch.bfloat16)
    with pytest.raises(FrameError, match="centred writing"):
        load_model(hooked, tokenizer=tiny_tokenizer())
    raw = hooked_transformer(tiny_hf("gpt2"), tokenizer_for_hooked()).to(torch.bfloat16)
    assert load_model(raw, tokenizer=tiny_tokenizer()).dtype == torch.bfloat16


def test_the_hash_sees_every_weight_and_changes_none() -> None:
    hf = tiny_hf()
    model = load_model(hooked_transformer(hf, tokenizer_for_hooked()), tokenizer=tiny_tokenizer(), hf_model=hf)
    before = model.weight_hash()
    with torch.no_grad():
        model.hooked.blocks[0].attn.W_Q.mul_(1.5)
        model.hooked.blocks[0].attn.W_O.mul_(1.5)
    assert model.weight_hash() != before
    assert torch.equal(hf.model.layers[0].self_attn.o_proj.weight, tiny_hf().model.layers[0].self_attn.o_proj.weight)


def test_a_failed_export_leaves_the_hugging_face_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded()
    edit = tiny_edit(model)
    monkeypatch.setattr(type(model.text.tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StorageError, match="full"):
        export_checkpoint(model, edit, tmp_path / "hf")
    untouched = dict(tiny_hf().named_parameters())
    assert all(torch.equal(p, untouched[name]) for name, p in model._hf.named_parameters())
    assert not list(tmp_path.iterdir())


def test_an_extra_token_that_ends_an_answer_is_taken() -> None:
    model = loaded()
    free = model.generate([[1, 9, 40]], max_new_tokens=6)[0]
    assert model.generate([[1, 9, 40]], max_new_tokens=6, eos_token_id=free[2])[0] == free[: free.index(free[2])]


def test_a_sampled_answer_does_not_depend_on_its_batch_and_rows_carry_different_edits() -> None:
    from s2e_lens.editor.apply import edit_effects
    from s2e_lens.evaluation import Condition, one_by_one, together
    from s2e_lens.steering import addition

    model = loaded("llama")
    prompts = [[1, 5, 6, 7], [1, 9], [1, 40, 41]]
    sampled = model.generate(prompts, max_new_tokens=8, do_sample=True)
    assert sampled == [model.generate([prompt], max_new_tokens=8, do_sample=True)[0] for prompt in prompts]
    assert sampled != model.generate(prompts, max_new_tokens=8)
    several = [Condition(), Condition(edit_effects(tiny_edit(model))), Condition(addition(tiny_directions(model), 0.5))]

    def answers(seen: LensModel, index: int) -> list[list[int]]:
        return seen.generate(prompts, max_new_tokens=8, eos_token_id=None)

    shared = together(model, several, answers)
    assert shared == one_by_one(model, several, answers)
    assert len({str(each) for each in shared}) == 3
