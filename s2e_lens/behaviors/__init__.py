"""Behaviours: contrastive examples, their tokens and spans, splits, and what is measured."""

from s2e_lens.behaviors.behavior import Behavior, Metric, Task, load_behavior, shipped_behaviors
from s2e_lens.behaviors.examples import Example, TokenizedExample, read_examples, split_examples
from s2e_lens.behaviors.tokens import tokenize_examples

__all__ = [
    "Behavior",
    "Example",
    "Metric",
    "Task",
    "TokenizedExample",
    "load_behavior",
    "read_examples",
    "shipped_behaviors",
    "split_examples",
    "tokenize_examples",
]
