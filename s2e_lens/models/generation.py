"""Generation in batches: sampling that is seeded per prompt, and rows that leave the batch when their answer ends."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.generation import logits_process as lp

from s2e_lens.errors import ModelError

_SEED: ContextVar[int] = ContextVar("seed", default=0)

STEPS = 8
"""Tokens between two looks at which answers have ended."""

SPARSE = 0.75
"""Finished rows leave the batch when fewer than this share of it goes on."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Answers sampled inside the block are those of this seed."""
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def current_seed() -> int:
    """The seed of the innermost :func:`seeded` block, 0 outside."""
    return _SEED.get()


def uniforms(prompt: Sequence[int], draw: int, count: int) -> np.ndarray:
    """The random numbers in [0, 1) that decide an answer's tokens: a function of seed, prompt and draw alone."""
    return np.random.default_rng([_SEED.get(), draw, *prompt]).random(count)


def draws_of(prompts: Sequence[Sequence[int]]) -> list[int]:
    """For each prompt, how often it stood before: a prompt that is given three times gets draws 0, 1 and 2.

    >>> draws_of([[5], [6], [5]])
    [0, 0, 1]
    """
    seen: dict[tuple[int, ...], int] = {}
    found = []
    for prompt in map(tuple, prompts):
        found.append(seen.get(prompt, 0))
        seen[prompt] = found[-1] + 1
    return found


SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_h": None,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": None,
    "eta_cutoff": None,
}
"""Settings that only sampling knows, with transformers' defaults for checkpoints that leave them open."""


def warpers(settings: dict[str, Any]) -> list[Any]:
    """What transformers does to the logits before it samples, in its order."""
    value = {name: default if settings.get(name) is None else settings[name] for name, default in SAMPLING.items()}
    made: list[Any] = []
    if value["temperature"] != 1.0:
        made.append(lp.TemperatureLogitsWarper(float(value["temperature"])))
    if value["top_h"] is not None:
        made.append(lp.TopHLogitsWarper(top_h=value["top_h"]))
    if value["top_k"]:
        made.append(lp.TopKLogitsWarper(top_k=value["top_k"]))
    if value["top_p"] < 1.0:
        made.append(lp.TopPLogitsWarper(top_p=value["top_p"]))
    if value["min_p"] is not None:
        made.append(lp.MinPLogitsWarper(min_p=value["min_p"]))
    if value["typical_p"] < 1.0:
        made.append(lp.TypicalLogitsWarper(mass=value["typical_p"]))
    if value["epsilon_cutoff"]:
        made.append(lp.EpsilonLogitsWarper(epsilon=value["epsilon_cutoff"]))
    if value["eta_cutoff"]:
        made.append(lp.EtaLogitsWarper(epsilon=value["eta_cutoff"]))
    return made


class Choose(lp.LogitsProcessor):
    """Samples by inverting the distribution function at each row's own random numbers; the rest gets -inf.

    The same prompt, seed and draw give the same answer in any batch, and under two conditions of a model the same noise.
    """

    def __init__(self, numbers: Float[Tensor, "row step"], width: int, warp: Sequence[Any]):
        self.numbers, self.width, self.warp = numbers, width, warp

    def __call__(self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
        for each in self.warp:
            scores = each(input_ids, scores)
        wide = scores.float() if scores.device.type == "mps" else scores.double()
        reached = wide.softmax(dim=-1).cumsum(dim=-1)
        number = self.numbers[:, input_ids.shape[1] - self.width, None].to(reached)
        chosen = torch.searchsorted(reached, number * reached[:, -1:], right=True).clamp_max(scores.shape[1] - 1)
        return torch.full_like(scores, -math.inf).scatter(1, chosen, 0.0)


def stream_rows(
    runner: Callable[[], Any],
    prompts: Sequence[Sequence[int]],
    ids: Int[Tensor, "row pos"],
    mask: Int[Tensor, "row pos"],
    *,
    max_new_tokens: int,
    draws: Sequence[int],
    ends: Collection[int],
    watch: Callable[[Int[Tensor, " row"]], None],
    **options: Any,
) -> Iterator[list[list[int]]]:
    """Continue left-padded prompts with a Hugging Face model; gives the new tokens of each so far, also beyond its end.

    Its own ``generate`` runs for a few tokens at a time with one cache; rows whose answer has ended then leave the batch.

    Args:
        runner: gives the model, before every run: it may be another tree of modules by then, over the same weights.
        prompts: the prompts without padding: what the sampling's random numbers come from.
        ids: the prompts, padded on the left.
        mask: 0 where they are padded.
        max_new_tokens: at most so many.
        draws: with sampling, which draw of its prompt each row is.
        ends: tokens that end an answer.
        watch: told, before every run, which of the prompts the batch's rows are.
        options: for ``generate``.
    """
    if options.get("num_beams", 1) != 1 or options.get("num_return_sequences", 1) != 1:
        raise ModelError(
            "generate() gives one answer per prompt, without beams. For several samples, give the prompt several times."
        )
    first = runner()
    settings = {name: getattr(first.generation_config, name, None) for name in SAMPLING}
    settings |= {name: options.pop(name) for name in SAMPLING if name in options}
    numbers = None
    if options.pop("do_sample", False):
        each = zip(prompts, draws, strict=True)
        numbers = torch.from_numpy(np.stack([uniforms(prompt, draw, max_new_tokens) for prompt, draw in each]))
        numbers = numbers.float().to(ids.device) if ids.device.type == "mps" else numbers.to(ids.device)
    own = list(options.pop("logits_processor", None) or [])
    warp = warpers(settings)
    answers: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=ids.device)
    width, done, cache = ids.shape[1], 0, DynamicCache(config=first.config)
    stops = torch.tensor(sorted(ends), device=ids.device)
    while done < max_new_tokens:
        steps = min(STEPS, max_new_tokens - done)
        choose = [] if numbers is None else [Choose(numbers[alive], width, warp)]
        watch(alive)
        out = runner().generate(
            ids,
            attention_mask=mask,
            max_new_tokens=steps,
            past_key_values=cache,
            logits_processor=lp.LogitsProcessorList([*own, *choose]),
            do_sample=False,  # chosen above
            **dict.fromkeys(SAMPLING),  # a checkpoint's sampling defaults would only raise warnings
            **options,
        )
        new = out[:, ids.shape[1] :]
        for row, tokens in zip(alive.tolist(), new.tolist(), strict=True):
            answers[row] += tokens
        done += steps
        yield answers
        going = ~torch.isin(out[:, width:], stops).any(dim=1)
        if done >= max_new_tokens or not going.any():
            return
        ids, mask = out, torch.cat([mask, mask.new_ones(new.shape)], dim=1)
        if going.float().mean() < SPARSE:
            rows = going.nonzero()[:, 0]
            ids, mask, alive = ids[rows], mask[rows], alive[rows]
            cache.batch_select_indices(rows.cpu())  # a sharded model's layers lie on several devices
