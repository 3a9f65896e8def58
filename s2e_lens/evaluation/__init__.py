"""Evaluation: what an edit or a steering vector changes, on examples that no direction came from."""

from s2e_lens.evaluation.choices import multiple_choice, true_answer_preferred, true_answer_share
from s2e_lens.evaluation.harness import harness_task
from s2e_lens.evaluation.judge import endpoint_judge
from s2e_lens.evaluation.logprobs import Fluency, fluency, response_greedy, response_logprobs
from s2e_lens.evaluation.metrics import (
    Estimate,
    answer_stated,
    estimate,
    exact_answer,
    reasoning_length,
    refusal_rate,
    response_margin,
    right_maths,
    right_number,
    true_answer_given,
)

__all__ = [
    "Estimate",
    "Fluency",
    "answer_stated",
    "endpoint_judge",
    "estimate",
    "exact_answer",
    "fluency",
    "harness_task",
    "multiple_choice",
    "reasoning_length",
    "refusal_rate",
    "response_greedy",
    "response_logprobs",
    "response_margin",
    "right_maths",
    "right_number",
    "true_answer_given",
    "true_answer_preferred",
    "true_answer_share",
]
