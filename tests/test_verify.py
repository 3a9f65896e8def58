"""The parity certificate: it holds where the forms of an edit agree, and breaks with each of them."""

import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from s2e_lens import load_model, save
from s2e_lens.errors import ExamplesError, ExportError, MismatchError, ModelError, StorageError
from s2e_lens.models import LensModel
from s2e_lens.pipeline import verify as module
from s2e_lens.pipeline.certificate import Certificate, Difference, Fork, Tolerance, judge
from s2e_lens.pipeline.prompts import QUESTIONS, TEXTS, default_prompt_ids, read_prompts
from s2e_lens.pipeline.verify import verify
from s2e_lens.results import SITES, Edit
from tests.helpers import tiny_edit
from tests.test_cli import refusal, s2e
from tests.tiny import VOCABULARY, tiny_hf, tiny_model, tiny_tokenizer


def words(count: int, seed: int) -> str:
    choice = random.Random(seed)
    return " ".join(f"w{choice.randrange(4, VOCABULARY)}" for _ in range(count))


PROMPTS = [words(count, count) for count in (2, 5, 9, 12)]
FLOAT32, HALF = Tolerance.of(torch.float32), Tolerance.of(torch.bfloat16)
SMALL = Difference(max_logit=1e-5, rms_logit=1e-6, max_kl=0.0, mean_kl=0.0, greedy_agreement=1.0)
UNEDITED = Difference(max_logit=1.0, rms_logit=0.1, max_kl=0.1, mean_kl=0.01, greedy_agreement=0.5)


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files go to a folder of their own, and none is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def certified(model: LensModel, edit: Edit, **options: Any) -> Certificate:
    return verify(model, edit, PROMPTS, **{"max_new_tokens": 6, **options})


def held(certificate: Certificate) -> dict[str, bool | None]:
    return {row.form: row.holds for row in certificate.rows}


def reason(certificate: Certificate, form: str) -> str:
    return next(row.reason for row in certificate.rows if row.form == form)


def parameters(model: LensModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.twin.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# it holds


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3", "mixtral"])
def test_it_holds_on_every_form_and_the_weights_are_as_before(family: str) -> None:
    model = tiny_model(family)
    before = parameters(model)
    found = certified(model, tiny_edit(model))
    assert found.holds, found.verdict
    assert held(found) == {"hooks": True, "checkpoint": True, "lora": True}
    for row in found.rows:
        assert row.difference.max_logit < 1e-4, "far below the tolerance"
        assert row.difference.greedy_agreement == 1.0
        assert row.difference.forks == ()
    assert found.rows[1].difference.same_weights is True
    assert found.unedited.max_logit > 0.1
    assert found.restored
    assert same(parameters(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_holds_in_half_precision_by_the_share_of_the_edit_that_rounding_takes(dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype)
    found = certified(model, tiny_edit(model))
    assert found.holds, found.verdict
    assert found.tolerance.logits is None
    hooks = found.rows[0]
    assert 1e-4 < hooks.relative < 0.1, "rounding shows, and is small beside the edit"
    assert hooks.difference.max_logit > FLOAT32.logits, "an absolute limit as in float32 would be wrong here"
    assert found.realised["relative_error"] > 0


def test_the_numbers_are_those_of_a_plain_computation() -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    found = certified(model, edit, forms=["hooks"]).unedited
    ids = [model.text.prompt_ids(prompt) for prompt in PROMPTS]
    base = [model.logits(*model.pad([each]))[0] for each in ids]
    base_answers = model.generate(ids, max_new_tokens=6)
    with module.edited(model, edit):
        folded = [model.logits(*model.pad([each]))[0] for each in ids]
        answers = model.generate(ids, max_new_tokens=6)
    gap = torch.cat(base) - torch.cat(folded)
    p, q = torch.cat(folded).softmax(-1), torch.cat(base).softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    assert found.max_logit == pytest.approx(gap.abs().max().item(), rel=1e-5)
    assert found.rms_logit == pytest.approx(gap.square().mean().sqrt().item(), rel=1e-5)
    assert found.max_kl == pytest.approx(kl.max().item(), rel=1e-3)
    assert found.mean_kl == pytest.approx(kl.mean().item(), rel=1e-3)
    differ = [i for i in range(len(ids)) if answers[i] != base_answers[i]]
    assert [fork.prompt for fork in found.forks] == differ != []
    assert found.greedy_agreement == 1 - len(differ) / len(ids)
    fork = found.forks[0]
    prefix = answers[fork.prompt][: fork.position]
    assert base_answers[fork.prompt][: fork.position] == prefix
    with module.edited(model, edit):
        top = model.logits(*model.pad([[*ids[fork.prompt], *prefix]]))[0, -1].topk(2).values
    assert fork.margin == pytest.approx((top[0] - top[1]).item(), abs=1e-5)


def test_an_answer_that_ends_earlier_leaves_the_other_at_its_end() -> None:
    margins = [torch.arange(4.0), torch.arange(3.0)]
    reference = module._Reference([[1], [1]], [], [[5, 6, 7], [5, 6]], margins)
    assert module._forks([[5, 6], [5, 6]], reference) == (Fork(0, 2, 2.0),)
    assert module._forks([[5, 6, 7], [5, 6, 9]], reference) == (Fork(1, 2, 2.0),)
    assert module._forks([[4, 6, 7], [5, 6]], reference) == (Fork(0, 0, 0.0),)


def test_a_model_in_memory_with_another_attention_kernel_keeps_it() -> None:
    hf = tiny_hf("llama")
    hf.set_attn_implementation("sdpa")
    model = load_model(hf, tokenizer=tiny_tokenizer())
    assert certified(model, tiny_edit(model)).holds
    assert hf.config._attn_implementation == model.twin.config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_hooked_transformer_holds_and_without_a_twin_only_its_hooks_are_compared() -> None:
    from tests.test_hooked_transformer import hooked_transformer, tokenizer_for_hooked

    hf = tiny_hf("llama")
    hooked = hooked_transformer(hf, tokenizer_for_hooked())
    model = load_model(hooked, tokenizer=tiny_tokenizer(), hf_model=hf)
    before = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    found = certified(model, tiny_edit(model))
    assert found.holds, [found.verdict, *(row.reason for row in found.rows)]
    assert None not in held(found).values()
    assert same(dict(hf.state_dict()), before), "the twin has its own weights, and has them back"
    alone = load_model(hooked, tokenizer=tiny_tokenizer())
    found = certified(alone, tiny_edit(alone))
    assert held(found) == {"hooks": True, "checkpoint": None, "lora": None}
    assert "hf_model=" in reason(found, "lora")
    assert found.holds


# it does not hold


def without_layer(edit: Edit, layer: int) -> Edit:
    def cut(term: Any) -> Any:
        lam = term.lam.clone()
        lam[layer] = 0
        return dataclasses.replace(term, lam=lam)

    return dataclasses.replace(edit, **{site: tuple(cut(term) for term in edit[site]) for site in SITES})


def break_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.edit_as_hooks
    monkeypatch.setattr(module, "edit_as_hooks", lambda model, edit, **options: real(model, 1.5 * edit, **options))


def break_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.export_checkpoint
    monkeypatch.setattr(
        module, "export_checkpoint", lambda model, edit, out, **options: real(model, without_layer(edit, 1), out, **options)
    )


def break_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.export_lora

    def doubled(model: Any, edit: Any, out: Path, **options: Any) -> int:
        rank = real(model, edit, out, **options)
        config = json.loads((out / "adapter_config.json").read_text())
        (out / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
        return rank

    monkeypatch.setattr(module, "export_lora", doubled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("form", "sabotage"), [("hooks", break_hooks), ("checkpoint", break_checkpoint), ("lora", break_lora)])
def test_it_does_not_hold_when_one_form_is_broken(
    monkeypatch: pytest.MonkeyPatch, form: str, sabotage: Any, dtype: torch.dtype
) -> None:
    model = tiny_model("llama", dtype)
    edit = tiny_edit(model)
    sabotage(monkeypatch)
    found = certified(model, edit)
    assert held(found) == {each: each != form for each in ("hooks", "checkpoint", "lora")}
    assert not found.holds
    assert found.verdict.startswith(f"Does not hold: {form}.")
    assert "of what the edit changes" in reason(found, form)
    assert ("weights are not the edited ones" in reason(found, form)) == (form == "checkpoint")


def test_a_tenth_of_a_percent_more_is_found_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    real = module.edit_as_hooks
    monkeypatch.setattr(module, "edit_as_hooks", lambda model, edit, **options: real(model, 1.001 * edit, **options))
    assert held(certified(model, edit, forms=["hooks"])) == {"hooks": False}


def test_prompts_that_cannot_tell_do_not_hold() -> None:
    model = tiny_model("llama")
    found = certified(model, 1e-6 * tiny_edit(model))
    assert max(row.difference.max_logit for row in found.rows) < FLOAT32.logits
    assert not found.tells
    assert not found.holds
    assert "cannot tell" in found.verdict


def test_an_edit_of_nothing_skips_the_adapter_and_does_not_hold() -> None:
    model = tiny_model("llama")
    found = certified(model, 0.0 * tiny_edit(model))
    assert held(found) == {"hooks": True, "checkpoint": True, "lora": None}
    assert "no component" in reason(found, "lora")
    assert found.rows[0].relative is None
    assert not found.holds


def test_a_greedy_token_may_differ_where_rounding_bridges_the_margin_and_nowhere_else() -> None:
    def judged(margin: float, tolerance: Tolerance, **changes: Any) -> bool | None:
        forked = dataclasses.replace(SMALL, forks=(Fork(0, 0, 0.0), Fork(1, 3, margin)), **changes)
        return judge("hooks", forked, UNEDITED, tolerance).holds

    assert judged(0.0019, FLOAT32)
    assert not judged(0.0021, FLOAT32)
    assert judged(0.19, HALF, max_logit=0.1)
    assert not judged(0.21, HALF, max_logit=0.1)


def test_both_limits_and_the_weights_are_judged() -> None:
    assert judge("hooks", SMALL, UNEDITED, FLOAT32).holds
    assert not judge("hooks", dataclasses.replace(SMALL, max_logit=0.0011), UNEDITED, FLOAT32).holds
    assert not judge("hooks", dataclasses.replace(SMALL, rms_logit=0.0011), UNEDITED, FLOAT32).holds
    assert judge("hooks", dataclasses.replace(SMALL, max_logit=0.5, rms_logit=0.024), UNEDITED, HALF).holds
    assert not judge("hooks", dataclasses.replace(SMALL, rms_logit=0.026), UNEDITED, HALF).holds
    assert not judge("checkpoint", dataclasses.replace(SMALL, same_weights=False), UNEDITED, FLOAT32).holds


def test_weights_that_did_not_come_back_do_not_hold() -> None:
    model = tiny_model("llama")
    found = certified(model, tiny_edit(model), forms=["hooks"])
    broken = dataclasses.replace(found, restored=False)
    assert found.holds
    assert not broken.holds
    assert "Load it again" in broken.verdict


# the certificate


def test_the_certificate_says_what_was_compared_and_comes_back_from_json() -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    found = certified(model, edit)
    table = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Certificate.from_json(table) == found
    assert table["holds"] is True
    assert table["weight_hash"] == model.weight_hash() == edit.provenance.weight_hash
    assert (table["dtype"], table["prompts"], table["reference"]) == ("float32", 4, "weights")
    assert table["edit"] == edit.describe()
    assert {"torch", "transformers", "peft", "s2e-lens"} <= table["versions"].keys()
    assert table["unedited"]["forks"], "the control's answers differ"
    others = verify(model, 0.5 * edit, PROMPTS[:3], forms=["hooks"], max_new_tokens=2)
    assert others.prompts_hash != found.prompts_hash
    assert others.edit_hash != found.edit_hash
    assert certified(model, edit, forms=["hooks"]).edit_hash == found.edit_hash


def test_skipped_forms_come_back_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = tiny_model("llama")
    found = certified(model, tiny_edit(model))
    assert held(found) == {"hooks": True, "checkpoint": True, "lora": None}
    assert "pip install peft" in reason(found, "lora")
    assert found.holds, "what could be compared holds"
    assert Certificate.from_json(json.loads(json.dumps(found.to_json()))) == found


# errors


@pytest.mark.parametrize("what", ["export_lora", "export_checkpoint", "edit_as_hooks", "_same_weights"])
def test_the_weights_are_as_before_after_a_failure_in_the_middle(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    before = parameters(model)

    def fail(*arguments: Any, **options: Any) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(module, what, fail)
    with pytest.raises(StorageError, match="no room"):
        certified(model, edit)
    assert same(parameters(model), before)
    monkeypatch.undo()
    assert certified(model, edit, forms=["hooks"]).holds, "and no hook is left"


def test_a_failure_while_the_hook_form_runs_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    ids = model.pad([model.text.prompt_ids(PROMPTS[0])])
    before = model.logits(*ids)
    real = module._finite

    def fail(logits: torch.Tensor, what: str) -> torch.Tensor:
        return real(logits * torch.nan if "hook" in what else logits, what)

    monkeypatch.setattr(module, "_finite", fail)
    with pytest.raises(ModelError, match="hook form gives NaN"):
        certified(model, edit)
    assert torch.equal(model.logits(*ids), before)


def test_what_cannot_be_loaded_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    real = module.export_checkpoint

    def emptied(model: Any, edit: Any, out: Path, **options: Any) -> None:
        real(model, edit, out, **options)
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(module, "export_checkpoint", emptied)
    with pytest.raises(ExportError, match="transformers cannot load the exported checkpoint"):
        certified(model, tiny_edit(model))


def test_wrong_calls_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    edit = tiny_edit(model)
    with pytest.raises(ExportError, match="'onnx' is no form"):
        certified(model, edit, forms=["hooks", "onnx"])
    with pytest.raises(ExportError, match="nothing to compare"):
        certified(model, edit, forms=["weights"])
    with pytest.raises(ExamplesError, match="no prompt"):
        verify(model, edit, [])
    with pytest.raises(ModelError, match="max_new_tokens is 0"):
        certified(model, edit, max_new_tokens=0)
    with pytest.raises(ModelError, match="do not fit the context of 128"):
        certified(model, edit, max_new_tokens=127)
    with pytest.raises(MismatchError, match="planned on weights"):
        certified(tiny_model("llama", seed=1), edit)
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ExamplesError, match="fewer or shorter"):
        certified(model, edit)


def test_force_compares_on_other_weights() -> None:
    edit = tiny_edit(tiny_model("llama"))
    other = tiny_model("llama", seed=1)
    assert certified(other, edit, force=True).holds


# prompts


def test_questions_are_asked_where_there_is_a_chat_template() -> None:
    plain, chat = tiny_model("llama"), tiny_model("llama", template=True)
    assert default_prompt_ids(plain) == [plain.text.text_ids(text) for text in TEXTS]
    assert default_prompt_ids(chat)[len(TEXTS) :] == [chat.text.prompt_ids(question) for question in QUESTIONS]
    assert verify(chat, tiny_edit(chat), forms=["hooks"], max_new_tokens=2).prompts == len(TEXTS) + len(QUESTIONS)


def test_prompts_are_read_from_lines_or_jsonl_each_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b'One {"two"}\r\n\n  three\nOne {"two"}\n')
    assert read_prompts(tmp_path / "a.txt") == ['One {"two"}', "  three"]
    messages = [{"role": "user", "content": "Hello"}]
    records = [{"label": "positive", "prompt": "a", "response": "b"}, {"prompt": "a"}, {"prompt": messages}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert read_prompts(tmp_path / "a.jsonl") == ["a", tuple(messages)]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "cannot read"),
        ("a.txt", b"a\0b", "binary file"),
        ("a.jsonl", b'{"prompt": "a"}\n{"question": "a"}', 'line 2: an object with a "prompt"'),
        ("a.jsonl", b'"a"', "line 1"),
        ("a.jsonl", b"a", "line 1: not JSON"),
        ("a.jsonl", b'{"prompt": 3}', "line 1: prompt must be"),
        ("a.jsonl", b'{"prompt": [{"role": "user"}]}', "line 1: a message must be"),
    ],
)
def test_a_bad_file_of_prompts_is_our_error(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExamplesError, match=what):
        read_prompts(tmp_path / name)


# the command


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, an edit of it and prompts."""
    paths = {name: tmp_path / name for name in ("model", "edit.safetensors", "prompts.txt", "certificate.json")}
    tiny_hf("llama").save_pretrained(paths["model"])
    tiny_tokenizer().save_pretrained(paths["model"])
    save(tiny_edit(load_model(paths["model"])), paths["edit.safetensors"])
    paths["prompts.txt"].write_text("\n".join(PROMPTS))
    return paths


def call(files: dict[str, Path], *more: object) -> tuple[object, ...]:
    options = ("--prompts", files["prompts.txt"], "--max-new-tokens", 4)
    return ("verify", "--model", files["model"], "--edit", files["edit.safetensors"], *options, *more)


def test_the_command_prints_a_table_and_writes_the_certificate(files: dict[str, Path]) -> None:
    ran = s2e(*call(files, "--out", files["certificate.json"]))
    assert ran.status == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines() if line.startswith(("hooks", "checkpoint  ", "lora", "(unedited)"))]
    assert [(row[0], row[-1]) for row in rows] == [
        ("hooks", "yes"),
        ("checkpoint", "yes"),
        ("lora", "yes"),
        ("(unedited)", "control"),
    ]
    assert "Holds, to rounding: hooks, checkpoint, lora" in ran.out
    found = Certificate.from_json(json.loads(files["certificate.json"].read_text()))
    assert found.holds
    assert found.source == str(files["model"])
    assert found.command.startswith("s2e-lens verify")


def test_the_command_ends_with_status_3_where_it_does_not_hold(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    break_lora(monkeypatch)
    ran = s2e(*call(files, "--out", files["certificate.json"]))
    assert ran.status == 3
    assert "Does not hold: lora." in ran.out
    assert json.loads(files["certificate.json"].read_text())["holds"] is False
    assert s2e(*call(files, "--forms", "hooks, checkpoint")).status == 0
    page = " ".join(s2e("verify", "--help").out.split())
    assert "3 if they do not" in page


def test_errors_of_the_command_are_status_1_and_write_nothing(files: dict[str, Path]) -> None:
    files["prompts.txt"].write_text("")
    assert "holds no prompt" in refusal("ExamplesError", *call(files, "--out", files["certificate.json"]))
    assert "is the input as well" in refusal("StorageError", *call(files, "--out", files["edit.safetensors"]))
    files["prompts.txt"].write_text("w5")
    ran = s2e(*call(files, "--forms", "onnx", "--out", files["certificate.json"]))
    assert ran.status == 1
    assert "'onnx' is no form" in ran.err
    assert not files["certificate.json"].exists()
