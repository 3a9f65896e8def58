"""Metrics over examples, and their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2e_lens.behaviors import TokenizedExample
from s2e_lens.behaviors.behavior import Metric
from s2e_lens.behaviors.examples import LABELS, check_classes
from s2e_lens.evaluation.logprobs import response_logprobs
from s2e_lens.models import LensModel


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its 95 % bootstrap interval (none for fewer than three items, or when all are equal)."""

    value: float
    low: float | None
    high: float | None
    items: int


def estimate(values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean and 95 % percentile bootstrap interval over items, seeded."""
    from scipy import stats  # half a second that most commands need not spend

    array = np.asarray(values, dtype=np.float64)
    low = high = None
    if len(array) > 2 and np.ptp(array) > 0:
        interval = stats.bootstrap(
            (array,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Estimate(float(array.mean()), low, high, len(array))


def _measure_margin(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
    """One number per prompt where each prompt has both classes, else one per example; their mean is the margin."""
    check_classes(examples, "the measured examples")
    logprobs = response_logprobs(model, examples).tolist()
    by_prompt: dict[str, dict[str, list[float]]] = {}
    for example, value in zip(examples, logprobs, strict=True):
        by_prompt.setdefault(example.key, {}).setdefault(example.label, []).append(value)
    if all(len(classes) == len(LABELS) for classes in by_prompt.values()):
        return [float(np.mean(each["positive"]) - np.mean(each["negative"])) for each in by_prompt.values()]
    # Unpaired: weight each class to one half, so that the mean over items is mean(positive) - mean(negative).
    share = {label: len(examples) / sum(example.label == label for example in examples) for label in LABELS}
    signs = {"positive": 1, "negative": -1}
    return [signs[e.label] * share[e.label] * value for e, value in zip(examples, logprobs, strict=True)]


response_margin = Metric("response margin (nats/token)", _measure_margin)
"""Mean log-probability per token of positive responses minus that of negative ones, in nats."""
