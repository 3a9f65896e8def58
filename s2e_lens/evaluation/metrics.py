"""Metrics over examples, and their intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2e_lens.behaviors import TokenizedExample
from s2e_lens.behaviors.behavior import Metric
from s2e_lens.behaviors.examples import LABELS, check_classes
from s2e_lens.evaluation.answers import END_THINK, final_number, is_refusal, split_reasoning, states
from s2e_lens.evaluation.judge import Judge, find_judge, prompt_text
from s2e_lens.evaluation.logprobs import response_greedy, response_logprobs
from s2e_lens.models import LensModel


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its 95 % bootstrap interval (none for fewer than three items, or when all are equal)."""

    value: float
    low: float | None
    high: float | None
    items: int


def estimate(*groups: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean over items, or the mean of several groups' means, with a 95 % percentile bootstrap interval, seeded.

    Items are drawn again within their group; groups (tasks) weigh the same, however many items they have.
    """
    from scipy import stats  # half a second that most commands need not spend

    arrays = tuple(np.asarray(values, dtype=np.float64) for values in groups)

    def mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray | np.float64:
        return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)

    low = high = None
    if min(map(len, arrays)) > 2 and max(map(np.ptp, arrays)) > 0:
        interval = stats.bootstrap(
            arrays, mean_of_means, n_resamples=resamples, method="percentile", vectorized=True, rng=np.random.default_rng(seed)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Estimate(float(mean_of_means(*arrays)), low, high, sum(map(len, arrays)))


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


@dataclass(frozen=True)
class Question:
    """A prompt with all that is known of its answers."""

    prompt: tuple[int, ...]
    positive: tuple[TokenizedExample, ...]
    negative: tuple[TokenizedExample, ...]


def questions(examples: Sequence[TokenizedExample]) -> list[Question]:
    """The different prompts among examples, in order, each with its responses: what a metric has one number for."""
    by_prompt: dict[tuple[int, ...], list[TokenizedExample]] = {}
    for example in examples:
        by_prompt.setdefault(example.input_ids[: example.start], []).append(example)
    return [
        Question(prompt, *(tuple(each for each in found if each.label == label) for label in LABELS))
        for prompt, found in by_prompt.items()
    ]


def _judged(
    name: str,
    value: Callable[[LensModel, str, Question], float],
    *,
    higher_is_better: bool = True,
    max_new_tokens: int,
    sample: bool,
    samples: int = 1,
    **settings: Any,
) -> Metric:
    """A metric that has one number per prompt: the mean value of its answers."""

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        asked = questions(examples)
        said = model.generate(
            [each.prompt for each in asked for _ in range(samples)],
            draws=[draw for _ in asked for draw in range(samples)],
            max_new_tokens=max_new_tokens,
            do_sample=sample,
        )
        judged = np.array([value(model, model.text.decode(ids), asked[i // samples]) for i, ids in enumerate(said)])
        return judged.reshape(len(asked), samples).mean(axis=1).tolist()

    known = {"max_new_tokens": max_new_tokens, "sample": sample, "samples": samples, **settings}
    return Metric(name, measure, higher_is_better=higher_is_better, settings=known)


def refusal_rate(
    *, judge: Judge | str | Mapping[str, Any] | None = None, max_new_tokens: int = 32, sample: bool = True, samples: int = 1
) -> Metric:
    """Share of answers that refuse, by :func:`~s2e_lens.evaluation.answers.is_refusal` or by a judge of your own.

    Sampled with the model's own generation settings, ``samples`` times per prompt. A refusal shows at once: few tokens do,
    for our own judge; another may need more.

    A ``judge`` is called with the prompt and the answer and gives a bool, or a number in [0, 1]. It may be a function, its
    name ``"module:function"``, or the options of :func:`~s2e_lens.evaluation.judge.endpoint_judge` (``url`` and ``model``).

    Raises:
        ExamplesError: for a judge that cannot be imported or made.
    """
    asked = None if judge is None else find_judge(judge)

    def judged(model: LensModel, answer: str, question: Question) -> float:
        return float(is_refusal(answer) if asked is None else asked(prompt_text(model, question.prompt), answer))

    name = "refusal rate" if judge is None else "refusal rate (judged)"
    told = judge if judge is None or isinstance(judge, str | Mapping) else getattr(judge, "__qualname__", type(judge).__name__)
    return _judged(name, judged, max_new_tokens=max_new_tokens, sample=sample, samples=samples, judge=told)


def true_answer_given(*, max_new_tokens: int = 48, sample: bool = False) -> Metric:
    """Share of generated answers that state a true (positive) answer and no false one, word for word."""

    def judge(model: LensModel, answer: str, question: Question) -> float:
        def stated(side: Sequence[TokenizedExample]) -> bool:
            return any(states(answer, model.text.decode(each.input_ids[each.start :])) for each in side)

        return float(stated(question.positive) and not stated(question.negative))

    return _judged("true answer given", judge, max_new_tokens=max_new_tokens, sample=sample)


def reasoning_length(*, max_new_tokens: int = 512, sample: bool = True) -> Metric:
    """Tokens of reasoning: between the think tags, or of the whole answer where it has none. Lower is better."""

    def judge(model: LensModel, answer: str, question: Question) -> float:
        reasoning = split_reasoning(answer)[0] or (answer if END_THINK not in answer else "")
        return float(len(model.text.tokenizer(reasoning, add_special_tokens=False)["input_ids"]))

    return _judged("reasoning tokens", judge, max_new_tokens=max_new_tokens, sample=sample, higher_is_better=False)


def right_number(*, max_new_tokens: int = 512, sample: bool = False) -> Metric:
    """Share of answers whose last number, after the reasoning, is that of the reference (positive) answer."""

    def judge(model: LensModel, answer: str, question: Question) -> float:
        references = (final_number(model.text.decode(each.input_ids[each.start :])) for each in question.positive)
        return float(final_number(answer) in {each for each in references if each is not None})

    return _judged("right result", judge, max_new_tokens=max_new_tokens, sample=sample)


def right_maths(*, max_new_tokens: int = 512, sample: bool = False) -> Metric:
    """Share of answers whose result equals the reference (positive) answer *as mathematics*, after the reasoning.

    1/2, 0.5 and \\frac{1}{2} are the same; see :func:`~s2e_lens.evaluation.maths.same_result`. Needs the extra ``math``.

    Raises:
        MissingPackageError: if ``math_verify`` is not installed.
    """
    from s2e_lens.evaluation.maths import check_installed, same_result

    check_installed()

    def judge(model: LensModel, answer: str, question: Question) -> float:
        rest = split_reasoning(answer)[1]
        return float(any(same_result(model.text.decode(each.input_ids[each.start :]), rest) for each in question.positive))

    return _judged("right result (as mathematics)", judge, max_new_tokens=max_new_tokens, sample=sample)


def answer_stated(*, max_new_tokens: int = 48, sample: bool = False) -> Metric:
    """Share of generated answers that contain the reference (positive) answer to the letter."""

    def judge(model: LensModel, answer: str, question: Question) -> float:
        return float(any(states(answer, model.text.decode(each.input_ids[each.start :])) for each in question.positive))

    return _judged("answer stated", judge, max_new_tokens=max_new_tokens, sample=sample)


def _measure_exact(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
    positive = [example for example in examples if example.label == "positive"]
    given = dict(zip(map(id, positive), response_greedy(model, positive), strict=True))
    return [float(any(given[id(each)] for each in question.positive)) for question in questions(positive)]


def exact_answer() -> Metric:
    """Share of prompts to which the greedy answer is a reference (positive) answer, token by token, and then ends.

    One forward pass tells: a greedy answer equals the reference where the reference's every token, and an end after it, has
    the largest logit given those before it.
    """
    return Metric("exact answer", _measure_exact)
