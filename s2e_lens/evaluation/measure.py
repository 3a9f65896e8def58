"""Measuring conditions of a model on one split: one number per item, from which all comparisons are made."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from s2e_lens.behaviors import Behavior, Example, Metric, Task, TokenizedExample, tokenize_examples
from s2e_lens.errors import ExamplesError, ModelError, S2EError
from s2e_lens.evaluation.logprobs import NeutralText
from s2e_lens.evaluation.metrics import response_margin
from s2e_lens.evaluation.sharing import Condition, NeedsWeights, Watched, enough_together, one_by_one, together
from s2e_lens.models import LensModel, seeded

Split = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class Questions:
    """One split of a behaviour, as tokens: what the attribute is measured on, and the items of each task."""

    attribute: Metric
    examples: list[TokenizedExample]
    tasks: list[tuple[Task, list[TokenizedExample]]]
    also: Sequence[Metric] = ()
    seed: int = 0
    """Of what metrics sample."""

    @property
    def cut(self) -> int:
        """How many examples were cut to fit the context."""
        return sum(each.cut > 0 for each in (*self.examples, *(item for _, items in self.tasks for item in items)))

    @property
    def everything(self) -> list[TokenizedExample]:
        """All items, in order."""
        return [*self.examples, *(item for _, items in self.tasks for item in items)]


def tokenize_questions(
    model: LensModel, behavior: Behavior, split: Split, *, system: str | None = None, truncate: bool = False, seed: int = 0
) -> Questions:
    """The questions of a split, for a model; a task without items of that split is left out.

    Args:
        model: whose tokenizer and chat template are used.
        behavior: whose questions.
        split: which ones.
        system: a system turn to put in front of every prompt.
        truncate: cut what is longer than the context.
        seed: of what metrics sample.

    Raises:
        ExamplesError: if the behaviour has no examples in that split, or some do not fit; with ``system``, where there is
            no chat template, or an example is given as tokens.
    """
    examples = behavior.validation if split == "validation" else behavior.test
    if not examples:
        raise ExamplesError(f"{behavior.name} has no {split} examples: nothing was set aside to measure on.")
    tasks = [(task, task.validation if split == "validation" else task.test) for task in behavior.utility]
    if system is not None and not model.text.has_chat_template:
        raise ExamplesError(f"{model.name} has no chat template: a system prompt has no place to stand.")

    def tokens(some: Sequence[Any]) -> list[TokenizedExample]:
        asked = some if system is None else [_with_system(each, system) for each in some]
        return tokenize_examples(model, asked, truncate=truncate)

    return Questions(
        behavior.attribute or response_margin,
        tokens(examples),
        [(task, tokens(items)) for task, items in tasks if items],
        tuple(behavior.also),
        seed,
    )


def _with_system(example: Any, system: str) -> Example:
    if not isinstance(example, Example):
        raise ExamplesError("a system prompt cannot be put before an example that is given as tokens.")
    turns = [{"role": "user", "content": example.prompt}] if isinstance(example.prompt, str) else list(example.prompt)
    if turns[0]["role"] == "system":
        turns = [{"role": "system", "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]
    else:
        turns = [{"role": "system", "content": system}, *turns]
    return dataclasses.replace(example, prompt=tuple(turns))


@dataclass(frozen=True, eq=False)
class Items:
    """What one condition gave on one split, item by item."""

    attribute: np.ndarray
    tasks: Mapping[str, np.ndarray]
    also: Mapping[str, np.ndarray]
    losses: np.ndarray
    """Σ -log p over the tokens of each neutral passage, but its first, in nats."""
    divergences: np.ndarray
    """Σ KL(unedited ‖ condition) over the same tokens, in nats."""
    tokens: np.ndarray
    """How many they are, per passage."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """Generated answers that were fine, empty, cut or repeating."""
    seconds: float = 0.0

    @property
    def utility(self) -> float:
        """Mean over tasks of their accuracy; without tasks, minus the log perplexity of neutral text."""
        if not self.tasks:
            return -float(self.losses.sum() / self.tokens.sum())
        return float(np.mean([each.mean() for each in self.tasks.values()]))

    @property
    def kl(self) -> float:
        """KL per token of neutral text, in nats."""
        return max(0.0, float(self.divergences.sum() / self.tokens.sum()))

    @property
    def perplexity(self) -> float:
        """Perplexity of neutral text, at most e^700."""
        return float(np.exp(min(self.losses.sum() / self.tokens.sum(), 700.0)))

    @property
    def degenerate(self) -> float:
        """Share of the generated answers that were empty, cut or repeating; 0 where none was generated."""
        total = sum(self.answers.values())
        return 1 - self.answers.get("fine", 0) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, exactly."""
        return {
            "attribute": self.attribute.tolist(),
            "tasks": {name: each.tolist() for name, each in self.tasks.items()},
            "also": {name: each.tolist() for name, each in self.also.items()},
            "losses": self.losses.tolist(),
            "divergences": self.divergences.tolist(),
            "tokens": self.tokens.tolist(),
            "answers": dict(self.answers),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Items":
        """What :meth:`to_json` gave."""

        def numbers(values: Any) -> np.ndarray:
            return np.asarray(values, dtype=np.float64)

        return cls(
            numbers(found["attribute"]),
            {name: numbers(each) for name, each in found["tasks"].items()},
            {name: numbers(each) for name, each in found["also"].items()},
            numbers(found["losses"]),
            numbers(found["divergences"]),
            numbers(found["tokens"]),
            dict(found["answers"]),
            float(found["seconds"]),
        )


class Meter:
    """Measures conditions on one split, several in a shared forward pass where that is faster here."""

    def __init__(
        self, model: LensModel, questions: Questions, neutral: Sequence[str] | NeutralText, *, share: bool | None = None
    ):
        """Measure with ``model`` on ``questions`` and ``neutral`` text; ``share`` fixes the way, None finds the faster."""
        self.model, self.questions = model, questions
        self.text = neutral if isinstance(neutral, NeutralText) else NeutralText(model, neutral)
        self.share = share
        self._on_twin = True
        self.seconds: dict[bool, float] = {}
        """Seconds per condition, with and without sharing, as measured."""

    def measure(self, conditions: Sequence[Condition], *, labels: Sequence[str] | None = None) -> Iterator[Items]:
        """Items of each condition, in order; those that share forward passes come at once.

        Args:
            conditions: what to measure.
            labels: what errors call them.

        Raises:
            ExamplesError: if a metric fails or gives no finite number per item.
            ModelError: if a condition gives NaN on neutral text.
        """
        names = [f"condition {i + 1}" for i in range(len(conditions))] if labels is None else list(labels)
        width = enough_together(len(self.questions.examples), self.model.rows_at_once(self._width))
        done = 0
        while done < len(conditions):
            share = self._choose(len(conditions) - done)
            some = slice(done, done + (width if share else 1))
            begun = perf_counter()
            try:
                found = self._measure(conditions[some], names[some], share=share)
            except NeedsWeights:
                if self.share or not self._on_twin:
                    raise
                self.share, self._on_twin = False, False  # a metric looks at weights, or sets hooks of its own
                continue
            each = (perf_counter() - begun) / len(found)
            self.seconds[share] = min(each, self.seconds.get(share, each))
            for items in found:
                yield dataclasses.replace(items, seconds=each)
            done += len(found)

    @property
    def _width(self) -> int:
        return max(len(example.input_ids) for example in self.questions.everything)

    def _choose(self, left: int) -> bool:
        """Share, or not: as told, else whatever was not tried yet, else what was faster."""
        if self.share is not None:
            return self.share
        if left == 1:
            return False
        for way in (False, True):
            if way not in self.seconds:
                return way
        return self.seconds[True] < self.seconds[False]

    def _measure(self, conditions: Sequence[Condition], names: Sequence[str], *, share: bool) -> list[Items]:
        run = together if share else partial(one_by_one, on_twin=self._on_twin)
        asked = self.questions

        def job(model: Watched, index: int) -> tuple[Any, ...]:
            def numbers(metric: Metric, examples: Sequence[TokenizedExample]) -> np.ndarray:
                return measure_items(metric, model, examples, names[index], asked.seed)

            return (
                numbers(asked.attribute, asked.examples),
                {task.name: numbers(task.metric, items) for task, items in asked.tasks},
                {metric.name: numbers(metric, asked.examples) for metric in asked.also},
                model.counts,
            )

        scores = [
            run(self.model, conditions, lambda model, index, window=window: window.score(model, names[index]))
            for window in self.text.windows()
        ]
        texts = [tuple(np.concatenate(parts) for parts in zip(*each, strict=True)) for each in zip(*scores, strict=True)]
        found = run(self.model, conditions, job)
        return [
            Items(attribute, tasks, also, losses, divergences, self.text.tokens, dict(counts))
            for (attribute, tasks, also, counts), (losses, divergences) in zip(found, texts, strict=True)
        ]


@contextmanager
def left_out(what: str) -> Iterator[None]:
    """A baseline that does not fit a model (its context is too short, its examples are tokens) is left out, with a warning."""
    try:
        yield
    except (ExamplesError, ModelError) as error:
        warnings.warn(f"{what} is not among the baselines: {error}", stacklevel=3)


def measure_items(
    metric: Metric, model: LensModel, examples: Sequence[TokenizedExample], condition: str, seed: int
) -> np.ndarray:
    """A metric's number for each item, in the condition that the model is in.

    Random numbers start anew from the seed: a sampling metric gives the same again, and draws the same noise under each
    condition. The global generators are left as they were.

    Raises:
        ExamplesError: if the metric fails, or gives no finite number per item.
    """
    try:
        with torch.random.fork_rng(), seeded(seed):
            torch.manual_seed(seed)
            values = np.asarray(metric.measure(model, examples), dtype=np.float64)
    except S2EError:
        raise
    except Exception as error:  # a metric may be the user's own code
        raise ExamplesError(f"the metric {metric.name!r} failed under {condition}: {type(error).__name__}: {error}") from error
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ExamplesError(
            f"the metric {metric.name!r} must give one finite number per item; under {condition} it gave an array of shape "
            f"{values.shape} with {int((~np.isfinite(values)).sum())} values that are NaN or infinite."
        )
    return values
