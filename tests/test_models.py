"""Loading: every kind of source, and every refusal."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from accelerate import cpu_offload
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from s2e_lens import edit_as_hooks, edited, load_model
from s2e_lens.errors import FrameError, MismatchError, ModelError, NotEditableError
from s2e_lens.export import export_checkpoint
from s2e_lens.models.bridge import BridgeModel
from tests.helpers import probe_logits, probe_tokens, tiny_edit
from tests.tiny import COMMON, FAMILIES, PARITY, STORIES, config, needs_parity, needs_stories, tiny_hf, tiny_model, tiny_tokenizer


def boot(hf: nn.Module) -> TransformerBridge:
    """A bridge as a user makes one."""
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs |= {"name_or_path": "in-memory", "add_bos_token": True}
    return TransformerBridge.boot_transformers("in-memory", hf_model=hf, tokenizer=tokenizer, device="cpu", dtype=hf.dtype)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny_hf().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_users_bridge_is_the_same_model_as_the_checkpoint_it_wraps(family: str, tmp_path: Path) -> None:
    """Weights, hash, logits and the exported checkpoint, through a twin that is rebuilt from the bridge."""
    model, from_bridge = tiny_model(family), load_model(boot(tiny_hf(family)))
    assert from_bridge.weight_hash() == model.weight_hash()
    assert from_bridge.module_names == model.module_names
    assert torch.allclose(probe_logits(from_bridge), probe_logits(model), atol=1e-5)
    edit = tiny_edit(from_bridge)
    for each, name in ((model, "a"), (from_bridge, "b")):
        export_checkpoint(each, edit, tmp_path / name)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert tiny_model(family, seed=1).weight_hash() != model.weight_hash()


def test_loading_does_not_change_what_is_passed_in() -> None:
    hf, tokenizer = tiny_hf(), tiny_tokenizer()
    tree = [(name, type(module)) for name, module in hf.named_modules()]
    config, arguments = hf.config.to_dict(), dict(tokenizer.init_kwargs)
    model = load_model(hf, tokenizer=tokenizer)
    edit = tiny_edit(model)
    with edit_as_hooks(model, edit), edited(model, edit):
        model.generate([[1, 5]], max_new_tokens=2)
    assert [(name, type(module)) for name, module in hf.named_modules()] == tree
    assert hf.config.to_dict() == config
    assert tokenizer.init_kwargs == arguments
    assert not any(module._forward_hooks for module in hf.modules())


def test_a_live_weight_is_the_models_own_memory() -> None:
    model = tiny_model()
    before = probe_logits(model)
    with torch.no_grad():
        model.W_O[0][1].mul_(2.0)
    changed = probe_logits(model)
    assert not torch.equal(changed, before)
    with model.intercept({("attn", 0): lambda x, y: None}):  # the hooked tree sees it as well
        assert torch.allclose(probe_logits(model), changed, atol=1e-5)


def test_a_local_directory_is_loaded_by_path_and_by_string(checkpoint: Path) -> None:
    for source in (checkpoint, str(checkpoint)):
        model = load_model(source)
        assert model.name == "model"
        assert model.source == str(checkpoint)
        assert model.weight_hash() == tiny_model().weight_hash()


def test_dtype_and_device_are_chosen_explicitly(checkpoint: Path) -> None:
    assert load_model(checkpoint, dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    assert load_model(checkpoint).dtype == torch.float32
    with pytest.raises(ModelError, match="not one of auto, float32"):
        load_model(checkpoint, dtype="int8")
    with pytest.raises(ModelError, match="cannot move"):
        load_model(checkpoint, device="cuda:99" if torch.cuda.is_available() else "cuda")


def test_a_model_in_memory_is_not_moved_behind_its_owners_back() -> None:
    with pytest.raises(ModelError, match="before loading it"):
        load_model(tiny_hf(), tokenizer=tiny_tokenizer(), dtype="bfloat16")
    assert load_model(tiny_hf(), tokenizer=tiny_tokenizer(), dtype="float32", device="cpu").dtype == torch.float32


def test_a_missing_or_broken_source_is_a_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is a file"):
        load_model(checkpoint / "config.json")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="hub id needs a network"):
        load_model("no-such-owner/no-such-model")
    with pytest.raises(ModelError, match="cannot load a dict"):
        load_model({})
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load_model(tiny_hf())
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load"):
        load_model(checkpoint)


def test_a_checkpoint_without_a_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    tiny_hf().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(tmp_path)


@needs_parity
def test_the_saved_tokenizer_is_used_and_not_an_architectures_own() -> None:
    """AutoTokenizer puts Qwen2's byte-level splitting over a word-level tokenizer.json."""
    text = load_model(PARITY / "qwen2" / "model").text
    vocabulary = json.loads((PARITY / "qwen2" / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert text.text_ids("how do i do") == [vocabulary[word] for word in ("how", "do", "i", "do")]


def test_a_bridge_in_compatibility_mode_is_refused() -> None:
    bridge = boot(tiny_hf("gpt2"))
    bridge.enable_compatibility_mode()
    with pytest.raises(FrameError, match="compatibility mode"):
        load_model(bridge)


def test_a_copy_of_the_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    attention = model.bridge.blocks[0].attn
    monkeypatch.setattr(type(attention), "W_O", property(lambda self: torch.zeros(4, 12, 48)))
    with pytest.raises(FrameError, match="a copy"):
        _ = model.W_O


def test_quantised_weights_are_refused_for_editing_and_run_as_hooks() -> None:
    class Int8Linear(nn.Module):
        """A projection whose weight is stored in int8, as quantisers do."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            scale = linear.weight.detach().abs().max() / 127
            self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
            self.scale, self.bias = scale, None
            self.in_features, self.out_features = linear.in_features, linear.out_features

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.weight.to(x.dtype) * self.scale).T

    edit = tiny_edit(tiny_model())
    hf = tiny_hf()
    for layer in hf.model.layers:
        layer.self_attn.o_proj, layer.mlp.down_proj = Int8Linear(layer.self_attn.o_proj), Int8Linear(layer.mlp.down_proj)
    model = load_model(hf, tokenizer=tiny_tokenizer())
    with pytest.raises(NotEditableError, match="cannot be read or written in place.*int8"), edited(model, edit, force=True):
        pass
    before = probe_logits(model)
    with edit_as_hooks(model, edit, force=True):
        hooked = probe_logits(model)
    assert (hooked - before).abs().max() > 0.05
    plain = tiny_model()
    with edited(plain, edit):
        assert (hooked - probe_logits(plain)).abs().max() < 0.5 * (hooked - before).abs().max()


def test_offloaded_weights_are_refused_for_editing() -> None:
    edit = tiny_edit(tiny_model())
    hf = tiny_hf()
    cpu_offload(hf, execution_device="cpu")
    model = load_model(hf, tokenizer=tiny_tokenizer())
    with pytest.raises(NotEditableError, match="meta device"), edited(model, edit, force=True):
        pass


def test_an_exported_checkpoint_says_that_it_carries_an_edit(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    edit = tiny_edit(model)
    export_checkpoint(model, edit, tmp_path / "edited")
    again = load_model(tmp_path / "edited")
    with pytest.raises(MismatchError, match="already carries an edit"), edited(again, edit):
        pass
    own = tiny_edit(again)  # even an edit that was planned on these very weights
    with pytest.raises(MismatchError, match="already carries an edit"), edited(again, own):
        pass
    with edited(again, own, force=True):
        pass
    assert load_model(checkpoint).carries_edit is None


def test_every_hook_is_gone_after_the_block_and_after_an_exception() -> None:
    model = tiny_model()
    base, calls = probe_logits(model), []
    with pytest.raises(ZeroDivisionError), model.intercept({("mlp", 1): lambda x, y: calls.append(1)}):
        probe_logits(model)
        _ = 1 / 0
    count = len(calls)
    assert count == 1
    probe_logits(model)
    with model.intercept({("attn", 0): lambda x, y: None}):
        probe_logits(model)
    assert len(calls) == count
    assert torch.equal(probe_logits(model), base)


def test_blocks_nest_in_the_order_they_were_entered() -> None:
    model, seen = tiny_model(), []
    with (
        model.intercept({("mlp", 0): lambda x, y: torch.zeros_like(y)}),
        model.intercept({("mlp", 0): lambda x, y: seen.append(y)}),
    ):
        probe_logits(model)
    assert torch.count_nonzero(seen[0]) == 0


def test_hooks_fire_at_prefill_and_at_every_decoded_token() -> None:
    model, widths = tiny_model(), []
    with model.intercept({("attn", 1): lambda x, y: widths.append(x.shape[1])}):
        answer = model.generate([[1, 5, 6, 7]], max_new_tokens=6, eos_token_id=None)[0]
    assert widths == [4, 1, 1, 1, 1, 1]
    assert len(answer) <= 6


def test_generation_of_a_batch_equals_one_prompt_at_a_time() -> None:
    model = tiny_model()
    prompts = [[1, 9], [1, 30, 31, 32, 33, 34], [1, 77, 78]]
    together = model.generate(prompts, max_new_tokens=8)
    assert together == [model.generate([prompt], max_new_tokens=8)[0] for prompt in prompts]
    with model.intercept({("mlp", 0): lambda x, y: None}):
        assert model.generate(prompts, max_new_tokens=8) == together


def test_padding_does_not_change_logits() -> None:
    model = tiny_model("gemma2")
    ids, mask = probe_tokens(model)
    together = model.logits(ids, mask)
    for row in range(ids.shape[0]):
        length = int(mask[row].sum())
        alone = model.logits(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-4)


def test_an_architecture_that_transformer_lens_does_not_know_is_a_clear_error() -> None:
    unknown = transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**COMMON))
    with pytest.raises(ModelError, match="TransformerLens cannot wrap"):
        load_model(unknown, tokenizer=tiny_tokenizer())


def test_a_model_without_the_hook_points_is_a_clear_error() -> None:
    bridge = tiny_model().bridge
    stripped = SimpleNamespace(
        compatibility_mode=False, cfg=bridge.cfg, blocks=bridge.blocks, original_model=bridge.original_model, hook_dict={}
    )
    with pytest.raises(ModelError, match="has no hook points"):
        BridgeModel(stripped, tiny_model().text, name="stripped", plain=None)


@needs_stories
def test_a_real_pretrained_model_tells_a_story(tmp_path: Path) -> None:
    shutil.copytree(STORIES, tmp_path / "stories")
    model = load_model(tmp_path / "stories")
    answer = model.generate([model.text.prompt_ids("Once upon a time")], max_new_tokens=30)[0]
    assert "little girl named Lily" in model.text.decode(answer)


def test_the_hash_sees_one_late_weight_and_the_architecture() -> None:
    model, other = tiny_model(), tiny_hf()
    before = model.weight_hash()
    with torch.no_grad():
        model.twin.lm_head.weight.view(-1)[-1] += 1e-3
    assert model.weight_hash() != before
    other.config.rms_norm_eps = 1e-3
    assert load_model(other, tokenizer=tiny_tokenizer()).weight_hash() != before


def test_two_offloaded_models_do_not_pass_for_one_another() -> None:
    hashes = []
    for seed in (0, 1):
        hf = tiny_hf(seed=seed)
        cpu_offload(hf, execution_device="cpu")
        model = load_model(hf, tokenizer=tiny_tokenizer())
        hashes += [model.weight_hash(), model.weight_hash()]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_a_model_in_training_mode_runs_without_dropout_and_stays_in_training_mode() -> None:
    hf = transformers.GPT2LMHeadModel(config("gpt2").__class__(**{**config("gpt2").to_dict(), "resid_pdrop": 0.5}))
    hf.transformer.h[0].attn.eval()
    hf.train(True)
    hf.transformer.h[1].attn.eval()
    model = load_model(hf, tokenizer=tiny_tokenizer())
    assert torch.equal(probe_logits(model), probe_logits(model))
    with model.intercept({("mlp", 0): lambda x, y: None}):
        assert torch.equal(probe_logits(model), probe_logits(model))
    assert hf.training
    assert not hf.transformer.h[1].attn.training
    ids, mask = probe_tokens(model)
    assert not torch.equal(hf(ids).logits, hf(ids).logits)  # negative control: its dropout is on


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_model_with_adapter_layers_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny_hf(), LoraConfig(target_modules=["o_proj"]))
    with pytest.raises(ModelError, match="merge_and_unload"):
        load_model(wrapped, tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="merge_and_unload"):
        load_model(wrapped.base_model.model, tokenizer=tiny_tokenizer())
    assert load_model(wrapped.merge_and_unload(), tokenizer=tiny_tokenizer()).shapes.n_heads == 4


def test_an_edited_checkpoint_is_known_as_such_also_in_memory(tmp_path: Path) -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    export_checkpoint(model, edit, tmp_path / "edited")
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited", attn_implementation="eager")
    again = load_model(hf, tokenizer=tiny_tokenizer())
    with pytest.raises(MismatchError, match="already carries an edit"), edited(again, tiny_edit(again)):
        pass


def test_generation_settings_that_transformers_would_refuse_are_exported_as_they_are(tmp_path: Path) -> None:
    hf = tiny_hf()
    hf.generation_config.temperature, hf.generation_config.do_sample = 0.6, False
    model = load_model(hf, tokenizer=tiny_tokenizer())
    export_checkpoint(model, tiny_edit(model), tmp_path / "edited")
    assert json.loads((tmp_path / "edited" / "generation_config.json").read_text())["temperature"] == 0.6
    assert hf.generation_config.temperature == 0.6


def test_a_users_own_hooks_on_a_bridge_count() -> None:
    bridge = boot(tiny_hf())
    model = load_model(bridge)
    before = probe_logits(model)
    bridge.add_hook("blocks.0.mlp.hook_out", lambda y, hook: y * 0)
    assert (probe_logits(model) - before).abs().max() > 0.1


def test_a_pad_token_without_an_embedding_is_never_looked_up() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= 128
    model = load_model(tiny_hf(), tokenizer=tokenizer)
    assert torch.equal(probe_logits(model), probe_logits(tiny_model()))
    free = tiny_model().generate([[1, 5], [1, 6, 7]], max_new_tokens=6)
    assert model.generate([[1, 5], [1, 6, 7]], max_new_tokens=6) == free
    end = next(token for token in free[0][:3] if token not in free[1])  # the first row ends early, and is padded from there on
    answers = model.generate([[1, 5], [1, 6, 7]], max_new_tokens=6, eos_token_id=end)
    assert answers == [free[0][: free[0].index(end)], free[1]]


def test_prompts_that_cannot_be_continued_are_refused() -> None:
    model = tiny_model()
    assert model.generate([], max_new_tokens=3) == []
    with pytest.raises(ModelError, match="no token"):
        model.generate([[]], max_new_tokens=3)
    with pytest.raises(ModelError, match="do not fit the context of 128"):
        model.generate([[1] * 127], max_new_tokens=3)
    first = model.generate([[1, 5]], max_new_tokens=5)[0]
    cut = model.generate([[1, 5], [1, 6]], max_new_tokens=5, eos_token_id=first[1])
    assert cut[0] == first[: first.index(first[1])]
