"""Behaviours: contrastive examples, their tokens and spans, splits, and what is measured."""

from s2e_lens.behaviors.behavior import Behavior, load_behavior
from s2e_lens.behaviors.examples import Example, TokenizedExample, read_examples, split_examples
from s2e_lens.behaviors.tokens import tokenize_examples

__all__ = [
    "Behavior",
    "Example",
    "TokenizedExample",
    "load_behavior",
    "read_examples",
    "split_examples",
    "tokenize_examples",
]
