"""Metrics that compare given answers by their log-probability: MC1, MC2, and the options of a question."""

from collections.abc import Sequence

import numpy as np

from s2e_lens.behaviors import TokenizedExample
from s2e_lens.behaviors.behavior import Metric
from s2e_lens.behaviors.examples import check_classes
from s2e_lens.errors import ExamplesError
from s2e_lens.evaluation.logprobs import response_logprobs
from s2e_lens.evaluation.metrics import questions
from s2e_lens.models import LensModel


def true_answer_preferred(*, per_token: bool = True) -> Metric:
    """MC1: share of questions whose likeliest true (positive) answer is likelier than every false (negative) one.

    "Likelier" by the mean log-probability per token, as in Steer2Edit; with ``per_token=False`` by the log-probability of
    the whole answer, as the TruthfulQA benchmark has it (there each question has a single true answer). A tie counts as 0.

    Raises (when it measures):
        ExamplesError: if a question lacks a true or a false answer.
    """

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        return [float(max(true) > max(false)) for true, false in _both_sides(model, examples, per_token=per_token)]

    return Metric("true answer preferred (MC1)" if per_token else "true answer preferred (MC1, whole answers)", measure)


def multiple_choice(*, per_token: bool = True) -> Metric:
    """Accuracy on questions with options: the right one is a positive example of the prompt, each wrong one a negative.

    The option with the greatest log-probability is the model's choice, per token or (``per_token=False``) of the whole
    option; a tie counts as wrong. The options may be the answers themselves, or letters where the prompt lists what they
    stand for; letters are one token each in most tokenizers, and then the two ways agree. Guessing gives one over the number
    of options. The arithmetic is MC1's; the name in the report is another.

    Raises (when it measures):
        ExamplesError: if a question lacks a right or a wrong option.
    """
    return Metric("multiple choice", true_answer_preferred(per_token=per_token).measure, settings={"per_token": per_token})


def true_answer_share() -> Metric:
    """MC2, as in TruthfulQA: the probability that falls on the true answers, of all that falls on the given ones.

    Per question Σ_true exp(log p) / Σ_all exp(log p), where log p is the log-probability of a whole answer (the sum over its
    tokens); computed from their logarithms, so that long answers do not vanish. One number in [0, 1] per question.

    Raises (when it measures):
        ExamplesError: if a question lacks a true or a false answer.
    """

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        return [
            float(np.exp(np.logaddexp.reduce(true) - np.logaddexp.reduce([*true, *false])))
            for true, false in _both_sides(model, examples, per_token=False)
        ]

    return Metric("probability of true answers (MC2)", measure)


def _both_sides(
    model: LensModel, examples: Sequence[TokenizedExample], *, per_token: bool
) -> list[tuple[list[float], list[float]]]:
    """Log-probabilities in nats of the positive and of the negative responses to each prompt."""
    check_classes(examples, "the measured examples")
    means = response_logprobs(model, examples).tolist()
    lengths = [1 if per_token else len(example.input_ids) - example.start for example in examples]
    known = {id(example): mean * length for example, mean, length in zip(examples, means, lengths, strict=True)}
    asked = questions(examples)
    lacking = sum(not (question.positive and question.negative) for question in asked)
    if lacking:
        raise ExamplesError(
            f"every question needs a true (positive) and a false (negative) answer for this metric; {lacking} of {len(asked)} "
            "lack one. Give both as examples of the same prompt."
        )
    return [([known[id(each)] for each in q.positive], [known[id(each)] for each in q.negative]) for q in asked]
