"""Measuring one model under several conditions: unedited, edited, steered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from s2e_lens.behaviors import Behavior, TokenizedExample
from s2e_lens.behaviors.behavior import Metric
from s2e_lens.errors import ExamplesError, S2EError
from s2e_lens.evaluation import Estimate, Fluency, estimate, fluency, response_margin
from s2e_lens.evaluation.logprobs import Condition
from s2e_lens.models import LensModel

BASE = "base"
PERPLEXITY = "perplexity of neutral text"


@dataclass(frozen=True)
class Measurement:
    """Attribute and utility under one condition, on held-out examples and neutral text."""

    condition: str
    strength: float | None
    attribute: Estimate
    change: Estimate
    """Attribute minus the unedited model's, item by item (paired)."""
    utility: float
    fluency: Fluency


def measure_conditions(
    model: LensModel,
    behavior: Behavior,
    examples: Sequence[TokenizedExample],
    conditions: Mapping[str, tuple[float | None, Condition]],
    *,
    neutral: Sequence[str],
    seed: int = 0,
    progress: bool = False,
) -> list[Measurement]:
    """Attribute (with intervals), utility, perplexity and KL of each condition; the first must be the unedited model.

    Raises:
        ExamplesError: if a user's metric gives another number of items under another condition, or NaN.
    """
    attribute = behavior.attribute or response_margin
    texts = fluency(model, neutral, {name: make for name, (_, make) in conditions.items()}, progress=progress)
    items: dict[str, np.ndarray] = {}
    utilities: dict[str, float] = {}
    for name, (_, make) in tqdm(conditions.items(), desc="conditions", unit="condition", disable=not progress):
        with torch.random.fork_rng(), make():
            torch.manual_seed(seed)  # a sampling metric gives the same again, and draws the same noise under each condition
            items[name] = _items(attribute, model, examples, name)
            utilities[name] = (
                float(_items(behavior.utility, model, examples, name).mean()) if behavior.utility else texts[name].perplexity
            )
    base = items[next(iter(conditions))]
    if any(len(values) != len(base) for values in items.values()):
        raise ExamplesError(f"the metric {attribute.name!r} gives another number of items under another condition; it must not.")
    return [
        Measurement(
            condition=name,
            strength=strength,
            attribute=estimate(items[name], seed=seed),
            change=estimate(items[name] - base, seed=seed),
            utility=utilities[name],
            fluency=texts[name],
        )
        for name, (strength, _) in conditions.items()
    ]


def _items(metric: Metric, model: LensModel, examples: Sequence[TokenizedExample], condition: str) -> np.ndarray:
    shown = "the unedited model" if condition == BASE else repr(condition)
    try:
        values = np.asarray(metric.measure(model, examples), dtype=np.float64)
    except S2EError:
        raise
    except Exception as error:  # a metric is the user's own code
        raise ExamplesError(f"the metric {metric.name!r} failed under {shown}: {type(error).__name__}: {error}") from error
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ExamplesError(
            f"the metric {metric.name!r} must give one finite number per item; under {shown} it gave an array of shape "
            f"{values.shape} with {int((~np.isfinite(values)).sum())} values that are NaN or infinite."
        )
    return values
