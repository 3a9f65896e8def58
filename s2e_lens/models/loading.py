"""``load_model``: one door for every kind of model."""

import contextlib
import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from s2e_lens.errors import ModelError
from s2e_lens.models.base import LensModel
from s2e_lens.models.bridge import BridgeModel
from s2e_lens.models.hooked import HookedModel
from s2e_lens.models.text import TextCodec
from s2e_lens.models.twin import sharing_copy

CONFIG_KEY = "s2e_lens_edit"
"""Entry of an exported checkpoint's config.json: which edit its weights carry."""

_GENERIC_TOKENIZERS = {"TokenizersBackend", "PreTrainedTokenizerFast"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    source: Any,
    *,
    tokenizer: Any = None,
    hf_model: nn.Module | None = None,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    chat_template: bool = True,
    trust_remote_code: bool = False,
) -> LensModel:
    """Load a model, or wrap one that is in memory, for measuring and editing.

    Args:
        source: ``"demo"``; a directory with a Hugging Face checkpoint; a hub id; a Hugging Face model in memory (with
            ``tokenizer``); a ``TransformerBridge``; a ``HookedTransformer`` (transformer-lens 3.9; with ``hf_model``
            it can be exported). What is passed in memory is not changed by loading.
        tokenizer: for models in memory; a bridge or HookedTransformer brings its own.
        hf_model: the Hugging Face model that a HookedTransformer was converted from.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; cuda when there is one, else cpu. A model in memory stays.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: what the checkpoint is stored in.
        revision: branch, tag or commit of a hub id.
        chat_template: False leaves the tokenizer's chat template unused.
        trust_remote_code: run the model code that comes with a checkpoint.

    Raises:
        ModelError: if it is not there, is no causal language model, or TransformerLens does not know it.
        FrameError: if its weights are folded, centred or in compatibility mode.
    """
    if isinstance(source, LensModel):
        return source
    if isinstance(source, str) and source == "demo":
        from s2e_lens.demo import MODEL_FOLDER

        model = load_model(MODEL_FOLDER, device=device, dtype=dtype, chat_template=chat_template)
        model.name = model.source = "demo"
        return model
    if isinstance(source, str | Path):
        return _from_checkpoint(
            source,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=dtype,
            revision=revision,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
        )
    if type(source).__module__.startswith("peft."):
        raise ModelError("this is a PEFT model: call merge_and_unload() on it, and pass what that returns.")
    if isinstance(source, PreTrainedModel):
        name = getattr(source.config, "_name_or_path", "") or type(source).__name__
        return _from_hf(source, tokenizer, name=name, chat_template=chat_template, device=device, dtype=dtype)
    kinds = [each.__name__ for each in type(source).__mro__]
    if "TransformerBridge" in kinds:
        text = _codec(tokenizer or source.tokenizer, source.original_model, chat_template)
        return _checked(BridgeModel(source, text, name=source.cfg.model_name, plain=None), device, dtype)
    if "HookedTransformer" in kinds:
        text = _codec(tokenizer or source.tokenizer, hf_model, chat_template)
        return _checked(HookedModel(source, text, name=source.cfg.model_name, hf_model=hf_model), device, dtype)
    raise ModelError(
        f"cannot load a {type(source).__name__}: pass 'demo', a checkpoint directory, a hub id, a Hugging Face causal "
        "language model with its tokenizer, a TransformerBridge, or a HookedTransformer."
    )


def _checked(model: LensModel, device: str | None, dtype: str) -> LensModel:
    """Refuse a device or dtype that a model in memory does not have: moving it is its owner's to do."""
    want = torch.device(device) if device else None
    moved = want is not None and (want.type, want.index or 0) != (model.device.type, model.device.index or 0)
    if moved or (dtype != "auto" and _dtype(dtype) != model.dtype):
        raise ModelError(
            f"{model.name} is in memory on {model.device} in {model.dtype}, not on {device or model.device} in {dtype}. "
            "Move it with model.to(...) before loading it."
        )
    return model


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is not one of auto, {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def _from_checkpoint(source: str | Path, *, device: str, dtype: str, chat_template: bool, **hub: Any) -> LensModel:
    path = Path(source)
    local = path.is_dir()
    if not local and (path.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1):
        what = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"{source} {what}: a local model is a directory with config.json and model.safetensors.")
    if local and not (path / "config.json").exists():
        raise ModelError(f"{path} has no config.json: it is not a Hugging Face checkpoint. (An adapter? Load its base model.)")
    wanted = "auto" if dtype == "auto" else _dtype(dtype)
    try:
        hf: Any = AutoModelForCausalLM.from_pretrained(
            path if local else source, dtype=wanted, attn_implementation="eager", **hub
        )
    except Exception as error:  # transformers raises OSError, ValueError, SafetensorError … for what is missing or broken
        hint = "" if local else " (a hub id needs a network, or the model in the local cache)"
        raise ModelError(f"cannot load {source}{hint}: {error}") from error
    hf = _move(hf, device, name=str(source))
    tokenizer = _load_tokenizer(path if local else source, **hub)
    model = _from_hf(hf, tokenizer, name=path.resolve().name if local else str(source), chat_template=chat_template)
    model.source = str(source)
    model.revision = hub["revision"] or getattr(hf.config, "_commit_hash", None)
    return model


def _move(hf: Any, device: str, *, name: str) -> Any:
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device {device!r} is none of cpu, cuda, cuda:N, mps.") from None
    try:
        return hf.to(where).eval()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(f"cannot move {name} to {device}: {error}") from error


def _load_tokenizer(source: str | Path, **hub: Any) -> Any:
    """The tokenizer as it was saved: AutoTokenizer may put an architecture's own class over a generic tokenizer.json."""
    try:
        saved = get_tokenizer_config(source, **hub).get("tokenizer_class")
        generic = saved in _GENERIC_TOKENIZERS
        loader: Any = PreTrainedTokenizerFast if generic else AutoTokenizer
        return loader.from_pretrained(source, **hub)
    except Exception as error:
        raise ModelError(
            f"cannot load the tokenizer of {source}: {error}. It needs tokenizer.json beside the weights."
        ) from error


def _codec(tokenizer: Any, hf: Any, chat_template: bool) -> TextCodec:
    if tokenizer is None:
        raise ModelError("a model in memory needs its tokenizer: load_model(model, tokenizer=tokenizer).")
    ends = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
    return TextCodec(tokenizer, use_chat_template=chat_template, generation_eos=tuple(ends))


def _from_hf(
    hf: Any, tokenizer: Any, *, name: str, chat_template: bool, device: str | None = None, dtype: str = "auto"
) -> LensModel:
    from transformer_lens.model_bridge import TransformerBridge

    if any(type(module).__module__.startswith("peft.") for module in hf.modules()):
        raise ModelError(f"{name} has PEFT adapter layers: what they add is no weight of its own. Call merge_and_unload() first.")
    text = _codec(tokenizer, hf, chat_template)
    hooked: Any = sharing_copy(hf)  # booting replaces modules in place: let that happen to a copy of the tree
    hooked.config.architectures = [type(hf).__name__]
    for_bridge = copy.deepcopy(tokenizer)
    # We tokenise ourselves. Without these two the bridge would fetch the tokenizer again, by name, to turn BOS on.
    for_bridge.init_kwargs |= {"name_or_path": "in-memory", "add_bos_token": True}
    try:
        with _quiet():
            bridge = TransformerBridge.boot_transformers(
                "in-memory", hf_model=hooked, tokenizer=for_bridge, device=str(hf.device), dtype=hf.dtype
            )
    except Exception as error:
        raise ModelError(
            f"TransformerLens cannot wrap {name} ({type(hf).__name__}): {error}. "
            "See transformer_lens.supported_models for what it knows."
        ) from error
    model = _checked(BridgeModel(bridge, text, name=name, plain=hf), device, dtype)
    carried = getattr(hf.config, CONFIG_KEY, None)
    model.carries_edit = json.dumps(carried) if carried else None
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep TransformerLens' notes on booting off the user's screen; warnings stay."""
    level = logging.root.level
    logging.root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logging.root.setLevel(level)
