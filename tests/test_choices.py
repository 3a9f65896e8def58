"""Metrics over given answers, against loops over one answer at a time on the plain model."""

import math
from typing import Any

import pytest
import torch

from s2e_lens.behaviors import Metric, TokenizedExample
from s2e_lens.errors import ExamplesError
from s2e_lens.evaluation import choices, multiple_choice, true_answer_preferred, true_answer_share
from s2e_lens.models import LensModel
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model()


def questions_of(count: int) -> list[list[TokenizedExample]]:
    """Questions with two true and two false answers of one, two, three and four tokens (the lengths change sides)."""
    found = []
    for prompt in range(count):
        labels = (
            ("positive", "negative", "negative", "positive") if prompt % 2 else ("negative", "positive", "positive", "negative")
        )
        found.append(
            [
                TokenizedExample(
                    label, (1, 5 + prompt, *(30 + (7 * prompt + 11 * answer + i) % 90 for i in range(answer + 1))), 2
                )
                for answer, label in enumerate(labels)
            ]
        )
    return found


def total(model: LensModel, example: TokenizedExample) -> float:
    """log p of a whole answer, token by token, from the plain model."""
    hf: Any = model.twin
    with torch.no_grad():
        logits = hf(torch.tensor([example.input_ids])).logits[0].double()
    found = 0.0
    for position in range(example.start, len(example.input_ids)):
        weights = [math.exp(each) for each in logits[position - 1].tolist()]
        found += math.log(weights[example.input_ids[position]] / sum(weights))
    return found


def measured(metric: Metric, model: LensModel, asked: list[list[TokenizedExample]]) -> list[float]:
    return list(metric.measure(model, [each for question in asked for each in question]))


def test_mc2_is_the_probability_of_true_answers_among_the_given(model: LensModel) -> None:
    asked = questions_of(10)
    want = []
    for question in asked:
        likely = [math.exp(total(model, each)) for each in question]
        true = sum(p for p, each in zip(likely, question, strict=True) if each.label == "positive")
        want.append(true / sum(likely))
    found = measured(true_answer_share(), model, asked)
    assert found == pytest.approx(want, rel=1e-4)
    assert max(found) - min(found) > 0.3
    per_token = [math.exp(total(model, each) / (len(each.input_ids) - 2)) for each in asked[0]]
    assert found[0] != pytest.approx(sum(per_token[1:3]) / sum(per_token), rel=1e-2), "means per token would give another share"


def given(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "response_logprobs", lambda model, examples: torch.tensor(values, dtype=torch.float64))


def test_mc2_by_hand(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens at ln 1/2 each are 1/4; one token at ln 1/8 is 1/8: of these two, 2/3 are true."""
    question = [TokenizedExample("positive", (1, 5, 6, 7), 2), TokenizedExample("negative", (1, 5, 8), 2)]
    given([math.log(1 / 2), math.log(1 / 8)], monkeypatch)
    assert measured(true_answer_share(), model, [question]) == pytest.approx([2 / 3])
    given([-2000.0, -3999.0], monkeypatch)
    assert measured(true_answer_share(), model, [question]) == pytest.approx([1 / (1 + math.e)]), "exp(-4000) is 0 by itself"


def test_mc1_per_token_and_of_whole_answers_are_two_measures(model: LensModel) -> None:
    asked = questions_of(16)
    want: dict[bool, list[float]] = {True: [], False: []}
    for per_token in want:
        for question in asked:
            scored = [(total(model, e) / (len(e.input_ids) - e.start if per_token else 1), e.label) for e in question]
            want[per_token].append(float(max(scored)[1] == "positive"))
        assert measured(true_answer_preferred(per_token=per_token), model, asked) == want[per_token]
        assert measured(multiple_choice(per_token=per_token), model, asked) == want[per_token]
    assert want[True] != want[False]
    assert measured(true_answer_preferred(), model, asked) == want[True]
    assert true_answer_preferred().name != true_answer_preferred(per_token=False).name


def test_a_tie_is_no_right_choice(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [TokenizedExample(label, (1, 5, 20 + i), 2) for i, label in enumerate(("negative", "positive", "negative"))]
    given([-3.0, -1.0, -1.0], monkeypatch)
    assert measured(multiple_choice(), model, [options]) == [0.0]
    given([-3.0, -1.0, -1.5], monkeypatch)
    assert measured(multiple_choice(), model, [options]) == [1.0]


@pytest.mark.parametrize("metric", [true_answer_preferred, true_answer_share, multiple_choice])
def test_a_question_with_one_kind_of_answer_is_an_error_that_counts_them(model: LensModel, metric: Any) -> None:
    asked = questions_of(3)
    lacking = [[each for each in question if each.label == "positive"] for question in asked[:2]]
    with pytest.raises(ExamplesError, match="2 of 3 lack one"):
        measured(metric(), model, [*lacking, asked[2]])
