"""Measuring one model under several conditions: unedited, edited, steered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from s2e_lens.behaviors import Behavior, Metric, Task, TokenizedExample, tokenize_examples
from s2e_lens.errors import ExamplesError, S2EError
from s2e_lens.evaluation import Estimate, Fluency, estimate, fluency, response_margin
from s2e_lens.evaluation.logprobs import Condition
from s2e_lens.models import LensModel

BASE = "base"
EDIT = "edit"
PERPLEXITY = "perplexity of neutral text"
ACCURACY = "mean accuracy of the utility tasks"


@dataclass(frozen=True)
class Questions:
    """One split of a behaviour, as tokens: what the attribute is measured on, and the items of each task."""

    examples: list[TokenizedExample]
    tasks: list[tuple[Task, list[TokenizedExample]]]

    @property
    def cut(self) -> int:
        """How many examples were cut to fit the context."""
        return sum(each.cut > 0 for each in (*self.examples, *(item for _, items in self.tasks for item in items)))


def tokenize_questions(
    model: LensModel, behavior: Behavior, split: Literal["validation", "test"], *, truncate: bool = False
) -> Questions:
    """The questions of a split, for a model; a task without items of that split is left out.

    Raises:
        ExamplesError: if the behaviour has no examples in that split, or some do not fit.
    """
    examples = behavior.validation if split == "validation" else behavior.test
    if not examples:
        raise ExamplesError(f"{behavior.name} has no {split} examples: nothing was set aside to measure on.")
    tasks = [(task, task.validation if split == "validation" else task.test) for task in behavior.utility]
    return Questions(
        tokenize_examples(model, examples, truncate=truncate),
        [(task, tokenize_examples(model, items, truncate=truncate)) for task, items in tasks if items],
    )


@dataclass(frozen=True)
class Measurement:
    """Attribute and utility under one condition, on held-out examples and neutral text.

    Every ``…_change`` is against the unedited model, item by item (paired).
    """

    condition: str
    strength: float | None
    attribute: Estimate
    change: Estimate
    utility: Estimate
    """Mean over the tasks; perplexity of neutral text where there are none."""
    utility_change: Estimate
    tasks: dict[str, Estimate]
    also: dict[str, Estimate]
    fluency: Fluency


def measure_conditions(
    model: LensModel,
    behavior: Behavior,
    questions: Questions,
    conditions: Mapping[str, tuple[float | None, Condition]],
    *,
    neutral: Sequence[str],
    seed: int = 0,
    progress: bool = False,
) -> list[Measurement]:
    """Attribute and utility (with intervals), perplexity and KL of each condition; the first must be the unedited model.

    Raises:
        ExamplesError: if a user's metric gives another number of items under another condition, or NaN.
    """
    texts = fluency(model, neutral, {name: make for name, (_, make) in conditions.items()}, progress=progress)
    found: dict[str, _Items] = {}
    for name, (_, make) in tqdm(conditions.items(), desc=behavior.name, unit="condition", disable=not progress):
        with make():
            found[name] = _Items(
                attribute=measure_items(behavior.attribute or response_margin, model, questions.examples, name, seed),
                tasks={task.name: measure_items(task.metric, model, items, name, seed) for task, items in questions.tasks},
                also={metric.name: measure_items(metric, model, questions.examples, name, seed) for metric in behavior.also},
            )
    base = found[next(iter(conditions))]
    return [
        _measurement(name, strength, found[name], base, texts[name], texts[BASE], seed)
        for name, (strength, _) in conditions.items()
    ]


@dataclass(frozen=True)
class _Items:
    attribute: np.ndarray
    tasks: dict[str, np.ndarray]
    also: dict[str, np.ndarray]


def _measurement(
    name: str, strength: float | None, found: _Items, base: _Items, text: Fluency, base_text: Fluency, seed: int
) -> Measurement:
    if len(found.attribute) != len(base.attribute) or any(len(found.tasks[each]) != len(base.tasks[each]) for each in base.tasks):
        raise ExamplesError(f"a metric gives another number of items under {name!r} than for the unedited model; it must not.")
    if found.tasks:
        utility = estimate(*found.tasks.values(), seed=seed)
        utility_change = estimate(*(found.tasks[each] - base.tasks[each] for each in base.tasks), seed=seed)
    else:
        utility = Estimate(text.perplexity, None, None, text.tokens)
        utility_change = Estimate(text.perplexity - base_text.perplexity, None, None, text.tokens)
    return Measurement(
        condition=name,
        strength=strength,
        attribute=estimate(found.attribute, seed=seed),
        change=estimate(found.attribute - base.attribute, seed=seed),
        utility=utility,
        utility_change=utility_change,
        tasks={each: estimate(values, seed=seed) for each, values in found.tasks.items()},
        also={each: estimate(values, seed=seed) for each, values in found.also.items()},
        fluency=text,
    )


def measure_items(
    metric: Metric, model: LensModel, examples: Sequence[TokenizedExample], condition: str, seed: int
) -> np.ndarray:
    """A metric's number for each item, in the condition that the model is in.

    Random numbers start anew from the seed: a sampling metric gives the same again, and draws the same noise under each
    condition. The global generators are left as they were.

    Raises:
        ExamplesError: if the metric fails, or gives no finite number per item.
    """
    shown = "the unedited model" if condition == BASE else repr(condition)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            values = np.asarray(metric.measure(model, examples), dtype=np.float64)
    except S2EError:
        raise
    except Exception as error:  # a metric may be the user's own code
        raise ExamplesError(f"the metric {metric.name!r} failed under {shown}: {type(error).__name__}: {error}") from error
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ExamplesError(
            f"the metric {metric.name!r} must give one finite number per item; under {shown} it gave an array of shape "
            f"{values.shape} with {int((~np.isfinite(values)).sum())} values that are NaN or infinite."
        )
    return values
