"""Log-probabilities: of responses, and of neutral text against the unedited model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from s2e_lens.activations import length_batches, span_weights
from s2e_lens.behaviors import TokenizedExample
from s2e_lens.errors import ExamplesError, ModelError
from s2e_lens.models import LensModel

Condition = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a model is edited, steered, or left as it is (``contextlib.nullcontext``)."""

BATCH_TOKENS = 1024
"""Tokens whose logits are held at a time."""

WINDOW_NUMBERS = 1 << 27
"""Log-probabilities of the unedited model that are kept for comparison at a time (512 MB)."""


def response_logprobs(model: LensModel, examples: Sequence[TokenizedExample]) -> Float[Tensor, " example"]:
    """Mean log-probability per token of each response given its prompt, in nats (the first response token included)."""
    found = torch.zeros(len(examples), dtype=torch.float64)
    for rows in length_batches([len(example.input_ids) for example in examples], budget=BATCH_TOKENS):
        batch = [examples[row] for row in rows]
        ids, mask = model.pad([example.input_ids for example in batch])
        taken = _next_token_logprobs(model.logits(ids, mask), ids)
        weights = span_weights(batch, ids.shape[1]).to(taken)
        found[rows] = einsum(weights[:, :-1], taken, "row pos, row pos -> row").cpu().double()
    return found


def response_greedy(model: LensModel, examples: Sequence[TokenizedExample]) -> list[bool]:
    """Whether greedy decoding gives each response and then ends: every token of it, and an end, has the largest logit."""
    found = [False] * len(examples)
    ends = torch.tensor(model.text.eos_ids)
    for rows in length_batches([len(example.input_ids) for example in examples], budget=BATCH_TOKENS):
        batch = [examples[row] for row in rows]
        ids, mask = model.pad([example.input_ids for example in batch])
        best = model.logits(ids, mask).argmax(dim=-1).cpu()
        for row, example, said in zip(rows, batch, best, strict=True):
            length = len(example.input_ids)
            given = said[example.start - 1 : length - 1].tolist() == list(example.input_ids[example.start :])
            found[row] = given and (not len(ends) or bool(torch.isin(said[length - 1], ends)))
    return found


def _next_token_logprobs(logits: Float[Tensor, "row pos d_vocab"], ids: Tensor) -> Float[Tensor, "row next"]:
    """log p(token[i+1] | tokens[..i]) at every position but the last."""
    return logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None])[..., 0]


@dataclass(frozen=True)
class Fluency:
    """What a condition does to neutral text."""

    perplexity: float
    """exp of the mean negative log-probability per token (all tokens but the first of each passage)."""
    kl: float
    """Mean over the same positions of KL(unedited ‖ condition), in nats."""
    tokens: int


def fluency(
    model: LensModel, passages: Sequence[str], conditions: Mapping[str, Condition], *, progress: bool = False
) -> dict[str, Fluency]:
    """Perplexity and KL divergence on neutral passages, for each condition.

    The unedited model runs once per batch; its log-probabilities are kept for a window of batches, and nothing but sums
    beyond it. Passages longer than the context are cut.

    Raises:
        ExamplesError: if no passage has two tokens.
        ModelError: if a condition gives NaN or infinite log-probabilities.
    """
    texts = [model.text.text_ids(passage)[: model.shapes.n_ctx] for passage in passages]
    texts = [ids for ids in texts if len(ids) > 1]
    if not texts:
        raise ExamplesError("the neutral text has no passage of at least two tokens for this tokenizer.")
    losses = dict.fromkeys(conditions, 0.0)
    divergences = dict.fromkeys(conditions, 0.0)
    batches = [model.pad([texts[row] for row in rows]) for rows in length_batches(list(map(len, texts)), budget=BATCH_TOKENS)]
    # Entering a condition may rewrite weights: each is entered once for as many batches as memory allows.
    window = max(1, WINDOW_NUMBERS // (BATCH_TOKENS * model.shapes.d_vocab))
    for start in _bar(range(0, len(batches), window), progress):
        some = batches[start : start + window]
        bases = [model.logits(ids, mask)[:, :-1].float().log_softmax(dim=-1) for ids, mask in some]
        for name, condition in conditions.items():
            with condition():
                for (ids, mask), base in zip(some, bases, strict=True):
                    logprobs = model.logits(ids, mask)[:, :-1].float().log_softmax(dim=-1)
                    scored = mask[:, 1:].float()
                    taken = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
                    kl = torch.nn.functional.kl_div(logprobs, base, log_target=True, reduction="none").sum(dim=-1)
                    losses[name] -= (taken * scored).sum().item()
                    divergences[name] += (kl * scored).sum().item()
    count = sum(len(ids) - 1 for ids in texts)
    broken = [name for name in conditions if not (math.isfinite(losses[name]) and math.isfinite(divergences[name]))]
    if broken:
        raise ModelError(
            f"{model.name} gives NaN or infinite log-probabilities on neutral text under {', '.join(broken)}: the edit or "
            "strength is too large, or the dtype too narrow (float16)."
        )
    return {name: Fluency(_exp(losses[name] / count), max(0.0, divergences[name] / count), count) for name in conditions}


def _exp(value: float) -> float:
    """exp, at most the largest float: a broken model's perplexity has no useful value."""
    return math.exp(min(value, 700.0))


def _bar(starts: range, progress: bool) -> Iterable[int]:
    return tqdm(starts, desc="neutral text", unit="window", disable=not progress)
