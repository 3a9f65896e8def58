"""Log-probabilities: of responses, and of neutral text against the unedited model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from s2e_lens.activations import length_batches, span_weights
from s2e_lens.behaviors import TokenizedExample
from s2e_lens.errors import ExamplesError, ModelError
from s2e_lens.models import LensModel

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
        weights = span_weights(batch, ids.shape[1])[:, :-1]

        def mean(logits: Tensor, ids: Tensor = ids, weights: Tensor = weights) -> Tensor:
            taken = _next_token_logprobs(logits, ids)
            return einsum(weights.to(taken), taken, "row pos, row pos -> row")

        found[rows] = model.logits(ids, mask, starts=[each.start for each in batch], reduce=mean).cpu().double()
    return found


def response_greedy(model: LensModel, examples: Sequence[TokenizedExample]) -> list[bool]:
    """Whether greedy decoding gives each response and then ends: every token of it, and an end, has the largest logit."""
    found = [False] * len(examples)
    ends = torch.tensor(model.text.eos_ids)
    for rows in length_batches([len(example.input_ids) for example in examples], budget=BATCH_TOKENS):
        batch = [examples[row] for row in rows]
        ids, mask = model.pad([example.input_ids for example in batch])
        best = model.logits(ids, mask, starts=[each.start for each in batch], reduce=_largest).cpu()
        for row, example, said in zip(rows, batch, best, strict=True):
            length = len(example.input_ids)
            given = said[example.start - 1 : length - 1].tolist() == list(example.input_ids[example.start :])
            found[row] = given and (not len(ends) or bool(torch.isin(said[length - 1], ends)))
    return found


def _largest(logits: Float[Tensor, "row pos d_vocab"]) -> Int[Tensor, "row pos"]:
    return logits.argmax(dim=-1)


def _next_token_logprobs(logits: Float[Tensor, "row pos d_vocab"], ids: Tensor) -> Float[Tensor, "row next"]:
    """log p(token[i+1] | tokens[..i]) at every position but the last."""
    return logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None])[..., 0]


@dataclass(frozen=True, eq=False)
class Window:
    """Batches of neutral text, with the unedited model's log-probabilities of every token."""

    batches: Sequence[tuple[Tensor, Tensor]]
    bases: Sequence[Tensor]
    """[row, next, d_vocab], one per batch."""

    def score(self, model: LensModel, condition: str) -> tuple[np.ndarray, np.ndarray]:
        """Σ -log p and Σ KL(unedited ‖ model) of each passage, in nats, over all its tokens but the first.

        Raises:
            ModelError: if the model gives NaN or infinite log-probabilities.
        """
        losses, divergences = [], []
        for (ids, mask), base in zip(self.batches, self.bases, strict=True):

            def compare(logits: Tensor, ids: Tensor = ids, mask: Tensor = mask, base: Tensor = base) -> Tensor:
                logprobs = logits[:, :-1].float().log_softmax(dim=-1)
                scored = mask[:, 1:].float()
                loss = -logprobs.gather(-1, ids[:, 1:, None])[..., 0]
                kl = torch.nn.functional.kl_div(logprobs, base, log_target=True, reduction="none").sum(dim=-1)
                return torch.stack([(loss * scored).sum(dim=1), (kl * scored).sum(dim=1)], dim=1)

            found = model.logits(ids, mask, reduce=compare).cpu().double().numpy()
            if not np.isfinite(found).all():
                raise ModelError(
                    f"{model.name} gives NaN or infinite log-probabilities on neutral text under {condition}: the edit or "
                    "strength is too large, or the dtype too narrow (float16)."
                )
            losses.append(found[:, 0])
            divergences.append(found[:, 1])
        return np.concatenate(losses), np.concatenate(divergences)


class NeutralText:
    """Passages on which perplexity and KL divergence to the unedited model are measured; longer ones than the context are cut."""

    def __init__(self, model: LensModel, passages: Sequence[str]):
        """Tokenise passages for a model.

        Raises:
            ExamplesError: if no passage has two tokens.
        """
        texts = [model.text.text_ids(passage)[: model.shapes.n_ctx] for passage in passages]
        texts = [ids for ids in texts if len(ids) > 1]
        if not texts:
            raise ExamplesError("the neutral text has no passage of at least two tokens for this tokenizer.")
        batches = length_batches(list(map(len, texts)), budget=BATCH_TOKENS)
        self._model = model
        self._batches = [model.pad([texts[row] for row in rows]) for rows in batches]
        self._kept: Window | None = None
        self.tokens = np.array([len(texts[row]) - 1.0 for rows in batches for row in rows])
        """Tokens that are scored, per passage, in the order of the scores."""

    def windows(self) -> Iterator[Window]:
        """As much text at a time as the unedited log-probabilities may take memory; all of it is kept where it is little."""
        if self._kept is not None:
            yield self._kept
            return
        size = max(1, WINDOW_NUMBERS // (BATCH_TOKENS * self._model.shapes.d_vocab))
        for start in range(0, len(self._batches), size):
            some = self._batches[start : start + size]
            window = Window(some, [self._model.logits(ids, mask, reduce=_logprobs) for ids, mask in some])
            if size >= len(self._batches):
                self._kept = window
            yield window


def _logprobs(logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "row next d_vocab"]:
    return logits[:, :-1].float().log_softmax(dim=-1)
