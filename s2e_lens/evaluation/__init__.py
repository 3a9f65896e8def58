"""Evaluation: what an edit or a steering vector changes, on examples that no direction came from."""

from s2e_lens.evaluation.choices import multiple_choice, true_answer_preferred, true_answer_share
from s2e_lens.evaluation.comparison import Comparison, compare
from s2e_lens.evaluation.harness import harness_task
from s2e_lens.evaluation.judge import endpoint_judge
from s2e_lens.evaluation.logprobs import NeutralText, response_greedy, response_logprobs
from s2e_lens.evaluation.measure import Items, Meter, Questions, measure_items, tokenize_questions
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
from s2e_lens.evaluation.settings import DEFAULT_GRID, PRESETS, PUBLISHED, Bench, Grid, Setting, preset, steering_settings
from s2e_lens.evaluation.sharing import Condition, Watched, one_by_one, together
from s2e_lens.evaluation.store import Record, SweepStore
from s2e_lens.evaluation.sweep import Plan, Sweep, sweep_frame
from s2e_lens.evaluation.tradeoff import Gain, Resampled, matched_gain, pareto

__all__ = [
    "DEFAULT_GRID",
    "PRESETS",
    "PUBLISHED",
    "Bench",
    "Comparison",
    "Condition",
    "Estimate",
    "Gain",
    "Grid",
    "Items",
    "Meter",
    "NeutralText",
    "Plan",
    "Questions",
    "Record",
    "Resampled",
    "Setting",
    "Sweep",
    "SweepStore",
    "Watched",
    "answer_stated",
    "compare",
    "endpoint_judge",
    "estimate",
    "exact_answer",
    "harness_task",
    "matched_gain",
    "measure_items",
    "multiple_choice",
    "one_by_one",
    "pareto",
    "preset",
    "reasoning_length",
    "refusal_rate",
    "response_greedy",
    "response_logprobs",
    "response_margin",
    "right_maths",
    "right_number",
    "steering_settings",
    "sweep_frame",
    "together",
    "tokenize_questions",
    "true_answer_given",
    "true_answer_preferred",
    "true_answer_share",
]
