"""Tiny random models of every covered family, and the folders that a user's clone does not have."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from s2e_lens import load_model
from s2e_lens.models import LensModel

SHARED = Path(__file__).resolve().parents[2] / "shared"
STORIES = SHARED / "models" / "stories260K"
PARITY = SHARED / "parity"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason=f"no pretrained model at {STORIES}")
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no golden results at {PARITY}")

VOCABULARY = 128
TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w5 {% endif %}"
)
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Large weights, so that an edit of a random model moves its logits by more than rounding.
    "initializer_range": 0.2,
}


def config(family: str) -> Any:
    """The configuration of a tiny model of a family."""
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=48,
            n_layer=2,
            n_head=4,
            n_positions=128,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        )
    if family == "mixtral":
        return transformers.MixtralConfig(**{**COMMON, "head_dim": 12, "num_local_experts": 4})
    kinds = {
        "llama": (transformers.LlamaConfig, {"head_dim": 12}),
        "mistral": (transformers.MistralConfig, {"head_dim": 12}),
        "gemma2": (transformers.Gemma2Config, {"head_dim": 20}),
        "gemma3": (transformers.Gemma3TextConfig, {"head_dim": 20}),
        "qwen2": (transformers.Qwen2Config, {}),
        "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
        "phi3": (transformers.Phi3Config, {}),
        "olmo2": (transformers.Olmo2Config, {}),
    }
    kind, extra = kinds[family]
    return kind(**COMMON, **extra)


DENSE = ("llama", "mistral", "gemma2", "gemma3", "qwen2", "qwen3", "gpt2", "phi3", "olmo2")
FAMILIES = (*DENSE, "mixtral")


@cache
def _built(family: str, dtype: torch.dtype, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(family), attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # biases start at zero, where a forgotten one would not show
                    parameter.normal_(std=0.1)
    model.config.architectures = [type(model).__name__]
    return model.to(dtype).eval()


def tiny_hf(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A fresh Hugging Face model with random weights; the same for the same seed."""
    return copy.deepcopy(_built(family, dtype, seed))


def tiny_tokenizer(*, template: bool = False) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: <pad> <s> </s> <unk>, then w4 … w127; puts <s> in front of a text."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(4, VOCABULARY))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    if template:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32, *, seed: int = 0, template: bool = False) -> LensModel:
    """A loaded tiny model of a family."""
    return load_model(tiny_hf(family, dtype, seed), tokenizer=tiny_tokenizer(template=template))
