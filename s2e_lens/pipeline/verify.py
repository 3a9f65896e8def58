"""``verify``: one edit as hooks, as weights, as a reloaded checkpoint and as a LoRA adapter, compared on the same prompts."""

import contextlib
import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from s2e_lens.editor import edit_as_hooks, edited
from s2e_lens.errors import ExamplesError, ExportError, ModelError
from s2e_lens.export import export_checkpoint, export_lora
from s2e_lens.models import LensModel
from s2e_lens.models.base import evaluation_mode
from s2e_lens.models.fingerprint import hash_tensors
from s2e_lens.models.text import Prompt
from s2e_lens.pipeline.certificate import Certificate, Difference, Fork, Row, Tolerance, judge, skipped
from s2e_lens.pipeline.prompts import default_prompt_ids
from s2e_lens.results import SITES, Edit

FORMS = ("hooks", "weights", "checkpoint", "lora")
REFERENCE = "weights"

BATCH_PROMPTS = 16
"""Prompts that are continued together."""

LARGEST = 1 << 31
"""Logits of the reference that are kept for comparison (8 GB in float32)."""


@dataclass(frozen=True)
class _Form:
    """A model in one of its forms: logits of one prompt on the CPU, and greedy continuations of several."""

    logits: Callable[[Sequence[int]], Float[Tensor, "pos d_vocab"]]
    generate: Callable[[Sequence[Sequence[int]]], list[list[int]]]


@dataclass(frozen=True)
class _Reference:
    """What every other form is compared with."""

    prompts: Sequence[Sequence[int]]
    logits: list[Float[Tensor, "_ d_vocab"]]
    tokens: list[list[int]]
    margins: list[Float[Tensor, " _"]]
    """Largest minus second largest logit at every new token, and after the last."""


def verify(
    model: LensModel,
    edit: Edit,
    prompts: Sequence[Prompt] | None = None,
    *,
    forms: Sequence[str] = FORMS,
    max_new_tokens: int = 32,
    tolerance: Tolerance | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Certificate:
    """Compare the forms of an edit with the edited weights: logits at every position of the prompts, and greedy answers.

    The forms: ``hooks`` (:func:`~s2e_lens.editor.edit_as_hooks`); ``weights`` (:func:`~s2e_lens.editor.edited`), the reference,
    which always runs; ``checkpoint``: exported, and loaded by transformers alone; ``lora``: exported, and loaded by PEFT on a
    plain copy of the unedited model. The model without the edit is the negative control. Plain copies run with the eager
    attention that the model itself runs with. A checkpoint and a copy of the model are made, one after the other: there must be
    room for a second model in memory, and for a checkpoint among temporary files (TMPDIR). The model is as before afterwards,
    also after an exception.

    Args:
        model: from :func:`s2e_lens.load_model`, unedited.
        edit: planned on this model.
        prompts: strings or lists of messages, which go through the chat template where there is one; by default a few
            texts and questions that come with the package.
        forms: those to compare.
        max_new_tokens: length of the greedy answers.
        tolerance: what counts as rounding; by default :meth:`Tolerance.of` the model's dtype.
        trust_remote_code: run the model code that an exported checkpoint brings with it.
        force: use the edit on other weights than those it was planned on.
        progress: show a bar.

    Returns:
        the certificate, whether it holds or not. A form that cannot be made here (no peft, no Hugging Face twin, nothing
        to adapt) is skipped and says why.

    Raises:
        ExportError: for an unknown form, or if transformers or PEFT cannot load what was exported.
        ExamplesError: if there is no prompt, or there are too many to keep their logits.
        ModelError: if a prompt has no token or leaves no room for its answer, or if logits are NaN or infinite.
        MismatchError, NotEditableError, PlanError: as :func:`~s2e_lens.editor.edited`.
        StorageError: if there is no room for a checkpoint among temporary files.
    """
    _check_forms(forms)
    ids = default_prompt_ids(model) if prompts is None else [model.text.prompt_ids(prompt) for prompt in prompts]
    _check_prompts(model, ids, max_new_tokens)
    before = model.weight_hash()
    tolerance = Tolerance.of(model.dtype) if tolerance is None else tolerance
    live = _live(model, max_new_tokens)
    with edited(model, edit, force=force) as realised:
        reference = _refer(live, ids)
    unedited = _compare(live, reference, "the unedited model")
    case = _Case(model, edit, reference, max_new_tokens, trust_remote_code, force)
    rows: list[Row] = []
    for form in tqdm([each for each in FORMS if each in forms and each != REFERENCE], desc="forms", disable=not progress):
        found = _WAYS[form](case)
        rows.append(skipped(form, found) if isinstance(found, str) else judge(form, found, unedited, tolerance))
    known = model.provenance(weight_hash=before)
    return Certificate(
        rows=tuple(rows),
        unedited=unedited,
        tolerance=tolerance,
        restored=model.weight_hash() == before,
        model=known.model,
        source=model.source,
        revision=known.revision,
        weight_hash=before,
        dtype=known.dtype,
        device=str(model.device),
        edit=edit.describe(),
        edit_hash=_hash_edit(edit),
        realised={"fraction": realised.fraction, "relative_error": realised.relative_error},
        prompts=len(ids),
        positions=sum(map(len, ids)),
        prompts_hash=f"xxh3:{xxhash.xxh3_128(json.dumps(ids).encode()).hexdigest()}",
        max_new_tokens=max_new_tokens,
        versions={**known.versions, **_peft_version()},
        command=known.command,
    )


def _check_forms(forms: Sequence[str]) -> None:
    unknown = [form for form in forms if form not in FORMS]
    if unknown or not set(forms) - {REFERENCE}:
        what = (
            f"{', '.join(map(repr, unknown))} is no form of an edit"
            if unknown
            else "there is nothing to compare the weights with"
        )
        others = ", ".join(form for form in FORMS if form != REFERENCE)
        raise ExportError(f"{what}: name some of {others}.")


def _check_prompts(model: LensModel, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if not ids:
        raise ExamplesError("there is no prompt to compare the forms on: give at least one.")
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; greedy answers have at least one token.")
    model.check_room(ids, max_new_tokens)
    tokens = sum(map(len, ids))
    if tokens * model.shapes.d_vocab > LARGEST:
        raise ExamplesError(
            f"the prompts have {tokens} tokens, and {model.name} gives {model.shapes.d_vocab} logits at each: more than the "
            f"{LARGEST} that are kept for comparison. Give fewer or shorter prompts."
        )


# -- running -----------------------------------------------------------------------------------------------------------


def _live(model: LensModel, max_new_tokens: int) -> _Form:
    """The model itself, as it is when it is called."""

    def logits(prompt: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
        return model.logits(*model.pad([prompt]))[0].cpu()

    return _Form(logits, lambda prompts: model.generate(prompts, max_new_tokens=max_new_tokens))


def _plain(module: Any, model: LensModel, max_new_tokens: int) -> _Form:
    """A module of transformers or PEFT; the tokens go in as they go into the model."""

    def logits(prompt: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
        ids, mask = model.pad([prompt])
        with evaluation_mode(module):
            return module(input_ids=ids, attention_mask=mask).logits[0].cpu()

    def generate(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        ids, mask = model.pad(prompts, side="left")
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with evaluation_mode(module):
            out = module.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=model.pad_id, **greedy
            )
        return [model.cut_at_eos(row) for row in out[:, ids.shape[1] :].tolist()]

    return _Form(logits, generate)


def _continue(form: _Form, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    batches = [prompts[start : start + BATCH_PROMPTS] for start in range(0, len(prompts), BATCH_PROMPTS)]
    return [answer for batch in batches for answer in form.generate(batch)]


def _refer(form: _Form, prompts: Sequence[Sequence[int]]) -> _Reference:
    """Logits and answers of the reference, and how certain each token of an answer is."""
    logits = [_finite(form.logits(prompt), "the edited model") for prompt in prompts]
    tokens = _continue(form, prompts)
    margins = []
    for prompt, answer in zip(prompts, tokens, strict=True):
        largest = form.logits([*prompt, *answer])[len(prompt) - 1 :].float().topk(2, dim=-1).values
        margins.append(largest[:, 0] - largest[:, 1])
    return _Reference(prompts, logits, tokens, margins)


def _finite(logits: Float[Tensor, "pos d_vocab"], what: str) -> Float[Tensor, "pos d_vocab"]:
    if not logits.isfinite().all():
        raise ModelError(
            f"{what} gives NaN or infinite logits: the edit is too large, or the dtype too narrow (float16). "
            "Scale the edit down, or load the model in bfloat16 or float32."
        )
    return logits


def _compare(form: _Form, reference: _Reference, what: str) -> Difference:
    """How far a form is from the reference; one prompt's logits are held at a time."""
    largest = squares = largest_kl = kl = 0.0
    numbers = positions = 0
    for prompt, wanted in zip(reference.prompts, reference.logits, strict=True):
        found, base = _finite(form.logits(prompt), what).double(), wanted.double()
        gap = found - base
        each = torch.nn.functional.kl_div(
            found.log_softmax(dim=-1), base.log_softmax(dim=-1), log_target=True, reduction="none"
        ).sum(dim=-1)
        largest, largest_kl = max(largest, gap.abs().max().item()), max(largest_kl, each.max().item())
        squares, kl = squares + gap.square().sum().item(), kl + each.sum().item()
        numbers, positions = numbers + gap.numel(), positions + len(prompt)
    forks = _forks(_continue(form, reference.prompts), reference)
    return Difference(
        max_logit=largest,
        rms_logit=(squares / numbers) ** 0.5,
        max_kl=largest_kl,
        mean_kl=max(0.0, kl / positions),
        greedy_agreement=1 - len(forks) / len(reference.prompts),
        forks=forks,
    )


def _forks(answers: Sequence[Sequence[int]], reference: _Reference) -> tuple[Fork, ...]:
    """The first token that differs, of every answer that is not the reference's. An end counts as a token."""
    found = []
    for index, (answer, wanted) in enumerate(zip(answers, reference.tokens, strict=True)):
        if list(answer) != wanted:
            pairs = enumerate(zip(answer, wanted, strict=False))
            position = next((i for i, (got, want) in pairs if got != want), min(len(answer), len(wanted)))
            found.append(Fork(index, position, reference.margins[index][position].item()))
    return tuple(found)


# -- the forms ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """What a form is made of, and what it is compared with."""

    model: LensModel
    edit: Edit
    reference: _Reference
    max_new_tokens: int
    trust_remote_code: bool
    force: bool


def _hooks(case: _Case) -> Difference:
    with edit_as_hooks(case.model, case.edit, force=case.force):
        return _compare(_live(case.model, case.max_new_tokens), case.reference, "the hook form")


def _checkpoint(case: _Case) -> Difference | str:
    model = case.model
    reason = _no_twin(model)
    if reason:
        return reason
    with _temporary_folder() as folder:
        export_checkpoint(model, case.edit, folder / "checkpoint", force=case.force)
        try:
            plain: Any = AutoModelForCausalLM.from_pretrained(
                folder / "checkpoint", attn_implementation="eager", trust_remote_code=case.trust_remote_code
            )
        except Exception as error:  # transformers raises OSError, ValueError, RuntimeError … for what it cannot load
            raise ExportError(
                f"transformers cannot load the exported checkpoint of {model.name}: {error}. Model code of its own needs "
                "trust_remote_code (--trust-remote-code)."
            ) from error
        plain = plain.to(model.device).eval()
        found = _compare(_plain(plain, model, case.max_new_tokens), case.reference, "the exported checkpoint")
        return replace(found, same_weights=_same_weights(case, plain))


def _lora(case: _Case) -> Difference | str:
    model = case.model
    reason = _no_twin(model)
    if reason:
        return reason
    if not case.edit.touched():
        return "the edit changes no component: there is no adapter to write"
    try:
        from peft import PeftModel
    except ImportError as error:
        return f"peft cannot be imported ({error}): pip install peft"
    with _temporary_folder() as folder:
        export_lora(model, case.edit, folder / "lora", force=case.force)
        plain: Any = copy.deepcopy(model.twin)
        plain.set_attn_implementation("eager")
        try:
            with warnings.catch_warnings():  # peft asks transformers in a way that transformers deprecates
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
                adapted: Any = PeftModel.from_pretrained(plain, str(folder / "lora"))
        except Exception as error:  # peft raises ValueError, KeyError, RuntimeError … for what it cannot load
            raise ExportError(f"PEFT cannot load the exported adapter on {model.name}: {error}. Update peft.") from error
        return _compare(_plain(adapted.eval(), model, case.max_new_tokens), case.reference, "the LoRA form")


_WAYS: dict[str, Callable[[_Case], Difference | str]] = {"hooks": _hooks, "checkpoint": _checkpoint, "lora": _lora}
"""How each form is made and compared; a string says why it is skipped."""


def _no_twin(model: LensModel) -> str:
    """Why a model cannot be exported, or nothing."""
    try:
        _ = model.twin
    except ModelError as error:
        return str(error)
    return ""


def _same_weights(case: _Case, plain: nn.Module) -> bool:
    """Whether a plain model has the edited weights, bit for bit."""
    try:
        with edited(case.model, case.edit, force=case.force):
            wanted, found = case.model.twin.state_dict(), plain.state_dict()
            return wanted.keys() == found.keys() and all(torch.equal(each, found[name]) for name, each in wanted.items())
    finally:
        case.model.sync_twin()  # a twin with weights of its own was given the edited ones


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s2e_verify_") as name:
        yield Path(name)


def _hash_edit(edit: Edit) -> str:
    """A hash of the edit's own numbers."""
    tensors = {
        f"{site}.{index}.{name}": getattr(term, name)
        for site in SITES
        for index, term in enumerate(edit[site])
        for name in ("u", "k", "lam")
    }
    return hash_tensors(tensors.items())


def _peft_version() -> dict[str, str]:
    try:
        return {"peft": metadata.version("peft")}
    except metadata.PackageNotFoundError:
        return {}
