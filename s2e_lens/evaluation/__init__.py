"""Evaluation: what an edit or a steering vector changes, on examples that no direction came from."""

from s2e_lens.evaluation.logprobs import Fluency, fluency, response_logprobs
from s2e_lens.evaluation.metrics import Estimate, estimate, response_margin

__all__ = ["Estimate", "Fluency", "estimate", "fluency", "response_logprobs", "response_margin"]
