"""The same edit as hooks, as weights, as a Hugging Face checkpoint and as a LoRA adapter, on every covered family."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from s2e_lens import edit_as_hooks, edited
from s2e_lens.export import export_checkpoint, export_lora
from tests.helpers import probe_logits, probe_tokens, tiny_edit
from tests.tiny import FAMILIES, tiny_hf, tiny_model

PROMPTS = [[1, 9, 40, 77], [1, 100, 101], [1, 5, 6, 7, 8, 9]]


def plain_logits(hf: torch.nn.Module, model: object) -> torch.Tensor:
    ids, mask = probe_tokens(model)
    with torch.no_grad():
        return hf(ids, attention_mask=mask).logits[mask.bool()]


def plain_greedy(hf: torch.nn.Module, steps: int = 8) -> list[list[int]]:
    """Greedy decoding written out: no generate(), no cache, one prompt at a time."""
    answers = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(steps):
            with torch.no_grad():
                ids.append(int(hf(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 2:
                ids.pop()
                break
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_weights_checkpoint_and_lora_give_the_same_logits_and_greedy_tokens(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    edit = tiny_edit(model)
    base = probe_logits(model)
    with edit_as_hooks(model, edit):
        hooked, hooked_tokens = probe_logits(model), model.generate(PROMPTS, max_new_tokens=8)
    with edited(model, edit):
        folded, folded_tokens = probe_logits(model), model.generate(PROMPTS, max_new_tokens=8)
    export_checkpoint(model, edit, tmp_path / "hf")
    export_lora(model, edit, tmp_path / "lora")
    checkpoint = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    adapted = PeftModel.from_pretrained(tiny_hf(family), tmp_path / "lora").eval()
    reference = plain_logits(checkpoint, model)
    for each in (hooked, folded, plain_logits(adapted, model)):
        assert_close(each, reference, atol=1e-4, rtol=0)
    assert hooked_tokens == folded_tokens == plain_greedy(checkpoint) == plain_greedy(adapted)
    # Negative controls: the edit does something, and it is gone again.
    assert (folded - base).abs().max() > 0.05
    assert torch.equal(probe_logits(model), base)
    assert model.generate(PROMPTS, max_new_tokens=8) == plain_greedy(tiny_hf(family))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_sum_of_two_behaviours_is_one_adapter_of_rank_two(tmp_path: Path) -> None:
    model = tiny_model("llama")
    first, second = tiny_edit(model), tiny_edit(model, rho=0.5, alpha=0.0)
    both = first + 0.5 * second
    assert export_lora(model, both, tmp_path / "lora") == 2
    with edited(model, both):
        folded = probe_logits(model)
    adapted = PeftModel.from_pretrained(tiny_hf("llama"), tmp_path / "lora").eval()
    assert_close(plain_logits(adapted, model), folded, atol=1e-4, rtol=0)
    with edited(model, first):
        assert (probe_logits(model) - folded).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_old_weights_come_back_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype)
    edit = tiny_edit(model)
    before = {name: p.detach().clone() for name, p in model.twin.named_parameters()}
    with edited(model, edit):
        changed = [name for name, p in model.twin.named_parameters() if not torch.equal(p, before[name])]
    assert changed
    assert all(torch.equal(p, before[name]) for name, p in model.twin.named_parameters())
    assert set(changed) == {f"{model.module_names[place]}.weight" for place in edit.touched()}


@pytest.mark.parametrize("family", FAMILIES)
def test_components_and_bias_add_up_to_the_raw_output(family: str) -> None:
    model = tiny_model(family)
    seen = {}
    ids, mask = probe_tokens(model)

    def keep(place):
        return lambda x, y: seen.__setitem__(place, (x, y))

    with model.intercept({place: keep(place) for place in model.shapes.places}):
        model.logits(ids, mask)
    for site, layer in model.shapes.editable_places:
        x, y = seen[site, layer]
        weight, bias = model.weight(site, layer).detach(), model.bias(site, layer)
        total = sum((x[:, :, i] @ weight[i] for i in range(weight.shape[0])), torch.zeros_like(y))
        total = total if bias is None else total + bias
        assert_close(total, y, atol=1e-5, rtol=0)
        if site == "attn":  # negative control: the heads in another order
            wrong = sum((x[:, :, i] @ weight[i - 1] for i in range(weight.shape[0])), torch.zeros_like(y))
            assert (wrong - y).abs().max() > 1e-3
    assert len(seen) == 2 * model.shapes.n_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_raw_output_is_what_the_plain_projection_gives(family: str) -> None:
    """An oracle without TransformerLens: torch hooks on the projections of a plain Hugging Face model."""
    model = tiny_model(family)
    plain = tiny_hf(family)
    ids, mask = probe_tokens(model)
    wanted, seen = {}, {}
    for place, name in model.module_names.items():
        plain.get_submodule(name).register_forward_hook(lambda m, a, y, place=place: wanted.__setitem__(place, (a[0], y)))
    with torch.no_grad():
        plain(ids, attention_mask=mask)
    fns = {place: (lambda x, y, place=place: seen.__setitem__(place, (x.flatten(-2), y))) for place in wanted}
    with model.intercept(fns):
        model.logits(ids, mask)
    for place in wanted:
        for got, want in zip(seen[place], wanted[place], strict=True):
            assert_close(got[mask.bool()], want[mask.bool()], atol=1e-5, rtol=0)
