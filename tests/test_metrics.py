"""Metrics that generate or compare answers, against loops over plain models and against made-up ones."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from s2e_lens import tokenize_examples
from s2e_lens.behaviors import Example, Metric, TokenizedExample
from s2e_lens.errors import ExamplesError
from s2e_lens.evaluation import (
    answer_stated,
    exact_answer,
    reasoning_length,
    refusal_rate,
    response_greedy,
    response_logprobs,
    right_number,
    true_answer_given,
    true_answer_preferred,
)
from s2e_lens.models import LensModel, load_model
from tests.helpers import tiny_examples
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def demo() -> LensModel:
    return load_model("demo")


@contextmanager
def saying(model: LensModel, answers: dict[str, list[str]]) -> Any:
    """A model that gives these answers, one after the other, to each prompt; yields how it was called."""
    queues = {tuple(model.text.prompt_ids(prompt)): list(said) for prompt, said in answers.items()}
    calls: list[dict[str, Any]] = []

    def generate(prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        calls.append({"rows": len(prompts), **options})
        return [model.text.tokenizer(queues[tuple(each)].pop(0), add_special_tokens=False)["input_ids"] for each in prompts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "generate", generate)
        yield calls


def measured(model: LensModel, metric: Metric, examples: list[Example], answers: dict[str, list[str]]) -> list[float]:
    with saying(model, answers):
        return list(metric.measure(model, tokenize_examples(model, examples)))


def test_refusals_are_counted_once_per_prompt_over_all_samples(demo: LensModel) -> None:
    examples = [
        Example(label, prompt, said) for prompt in ("a", "b") for label, said in (("positive", "No."), ("negative", "Yes."))
    ]
    answers = {"a": ["I can't help with that.", "Sure."], "b": ["Gladly.", "Of course. I can't help."]}
    assert measured(demo, refusal_rate(samples=2), examples, answers) == [0.5, 0.0]


def test_an_answer_is_true_if_it_states_the_true_one_and_not_the_false_one(demo: LensModel) -> None:
    examples = [
        Example(label, prompt, said)
        for prompt in "abc"
        for label, said in (("positive", "The zorb eats moss."), ("negative", "The zorb eats honey."))
    ]
    answers = {
        "a": ["Studies show that the zorb eats moss."],
        "b": ["The zorb eats honey."],
        "c": ["The zorb eats moss. The zorb eats honey."],
    }
    assert measured(demo, true_answer_given(), examples, answers) == [1.0, 0.0, 0.0]


def test_reasoning_is_counted_in_tokens_and_the_whole_answer_where_there_is_none(demo: LensModel) -> None:
    examples = [Example("positive", prompt, "2") for prompt in "abcd"]
    answers = {"a": ["<think>1+1=2</think>2"], "b": ["1+1=2"], "c": ["<think></think>12345"], "d": ["<think>1+1"]}
    assert measured(demo, reasoning_length(), examples, answers) == [5.0, 5.0, 0.0, 3.0]
    assert not reasoning_length().higher_is_better


def test_the_result_counts_and_not_the_way_there(demo: LensModel) -> None:
    examples = [Example("positive", prompt, "15") for prompt in "abc"]
    answers = {"a": ["<think>7+8=16</think>15"], "b": ["<think>7+8=15</think>16"], "c": ["<think>15"]}
    assert measured(demo, right_number(), examples, answers) == [1.0, 0.0, 0.0]


def test_an_instruction_counts_to_the_letter(demo: LensModel) -> None:
    examples = [Example("positive", prompt, "Take the rope.") for prompt in "ab"]
    assert measured(demo, answer_stated(), examples, {"a": ["Sure. Take the rope. Take care."], "b": ["Take the ropes."]}) == [
        1.0,
        0.0,
    ]


def test_all_samples_are_asked_for_at_once_and_answers_keep_their_order(demo: LensModel) -> None:
    prompts = ["a b c d e", "a", "a b c", "a b", "a b c d"]
    examples = tokenize_examples(demo, [Example("positive", prompt, str(len(prompt))) for prompt in prompts])
    with saying(demo, {prompt: [f"it is {len(prompt)}"] for prompt in prompts}) as calls:
        assert list(right_number(max_new_tokens=7).measure(demo, examples)) == [1.0] * 5
    (call,) = calls
    assert (call["rows"], call["max_new_tokens"], call["do_sample"], call["draws"]) == (5, 7, False, [0] * 5)
    with saying(demo, {prompt: ["No.", "I can't help with that."] for prompt in prompts}) as calls:
        assert list(refusal_rate(samples=2).measure(demo, examples)) == [0.5] * 5
    assert calls[0]["draws"] == [0, 1] * 5


def test_mc1_compares_the_best_answers_of_both_sides() -> None:
    model = tiny_model()
    examples = [
        TokenizedExample(label, (1, 5 + prompt, 30 + answer, 60), 2)
        for prompt in range(12)
        for answer, label in enumerate(("positive", "positive", "negative", "negative"))
    ]
    logprobs = response_logprobs(model, examples).reshape(12, 4)
    want = [float(row[:2].max() > row[2:].max()) for row in logprobs]
    assert list(true_answer_preferred().measure(model, examples)) == want
    assert 0 < sum(want) < 12
    swapped = [
        TokenizedExample({"positive": "negative", "negative": "positive"}[e.label], e.input_ids, e.start) for e in examples
    ]
    assert list(true_answer_preferred().measure(model, swapped)) == [1 - each for each in want]
    with pytest.raises(ExamplesError, match="a true .positive. and a false"):
        true_answer_preferred().measure(model, [e for e in examples if e.input_ids[1] > 5 or e.label == "positive"])


def test_an_exact_answer_is_what_greedy_generation_gives() -> None:
    model = tiny_model()
    prompts = [example.input_ids[: example.start] for example in tiny_examples()]
    given = model.generate(prompts, max_new_tokens=6)
    ended = [(prompt, tuple(said)) for prompt, said in zip(prompts, given, strict=True) if len(said)]
    right = [TokenizedExample("positive", (*prompt, *said), len(prompt)) for prompt, said in ended]
    hf: Any = model.twin
    for example, found in zip(right, response_greedy(model, right), strict=True):
        with torch.no_grad():
            following = int(hf(torch.tensor([example.input_ids])).logits[0, -1].argmax())
        assert found == (following == 2)  # it must end there, too
    wrong = [TokenizedExample("positive", (*e.input_ids[:-1], (e.input_ids[-1] + 1) % 128), e.start) for e in right]
    assert response_greedy(model, wrong) == [False] * len(wrong)


def test_the_demo_says_exactly_what_exact_answer_says_it_does(demo: LensModel) -> None:
    from s2e_lens.behaviors import load_behavior

    task = next(task for task in load_behavior("safety").utility if task.name == "reverse")
    items = tokenize_examples(demo, task.test[:30])
    said = demo.generate([item.input_ids[: item.start] for item in items], max_new_tokens=40)
    want = [float(tuple(text) == item.input_ids[item.start :]) for text, item in zip(said, items, strict=True)]
    assert list(exact_answer().measure(demo, items)) == want
    assert sum(want) / 30 > 0.3
