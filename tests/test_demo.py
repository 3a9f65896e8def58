"""The stand-in demo model: it learns its sentences, and the whole job works on it."""

import torch

from s2e_lens import Behavior, load_model, run
from s2e_lens.behaviors.examples import parse_example
from s2e_lens.demo import demo_examples, demo_neutral


def test_edit_and_steering_move_held_out_examples_in_the_right_direction() -> None:
    model = load_model("demo")
    behavior = Behavior.from_examples("cheerful", [parse_example(r) for r in demo_examples()], neutral=demo_neutral())
    outcome = run(model, behavior, strengths=(1.0,))
    base, edit, steering = outcome.measurements
    assert base.fluency.perplexity < 4  # of a vocabulary of 86: it has learnt its neutral sentences
    assert edit.change.low > 0
    assert steering.change.low > 0
    assert outcome.samples[0]["edit"] != outcome.samples[0]["base"]


def test_the_demo_model_is_the_same_every_time() -> None:
    from s2e_lens.demo import standin

    first, _ = standin.demo_model()
    again, _ = standin.demo_model.__wrapped__()
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
