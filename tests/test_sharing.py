"""Many conditions in one forward pass: the same answers as each alone, for any job."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from s2e_lens import edited
from s2e_lens.behaviors import Metric, TokenizedExample
from s2e_lens.editor.apply import edit_effects
from s2e_lens.errors import ExamplesError, ModelError
from s2e_lens.evaluation import (
    Condition,
    Meter,
    Questions,
    Watched,
    exact_answer,
    one_by_one,
    reasoning_length,
    response_margin,
    together,
    true_answer_preferred,
)
from s2e_lens.evaluation.answers import fault
from s2e_lens.evaluation.sharing import NeedsWeights
from s2e_lens.models import LensModel, base
from s2e_lens.steering import addition
from tests.helpers import tiny_directions, tiny_edit, tiny_examples
from tests.tiny import DENSE, tiny_model

PROMPTS = [[1, 5, 6, 7, 8], [1, 9], [1, 40, 41], [1, 100, 50, 60, 70, 80, 90]]
TEXTS = ("w5 w9 w40 w41 w42", "w100 w7", "w30 w31 w32 w33 w34 w35 w36")


def conditions(model: LensModel) -> list[Condition]:
    """The model as it is, two edits, steering both ways."""
    directions, edit = tiny_directions(model), tiny_edit(model)
    edits = [edit, -0.5 * edit]
    return [
        Condition(),
        *(Condition(edit_effects(each), lambda each=each: edited(model, each)) for each in edits),
        *(Condition(addition(directions, strength)) for strength in (0.5, -0.5)),
    ]


@pytest.mark.parametrize("family", [*DENSE, "mixtral"])
def test_shared_passes_give_the_greedy_tokens_of_each_edit_applied_alone(family: str) -> None:
    """Oracle: the weights themselves edited, one setting after the other."""
    model = tiny_model(family)
    several = conditions(model)

    def answers(model: Watched, index: int) -> list[list[list[int]]]:
        greedy = model.generate(PROMPTS, max_new_tokens=16, eos_token_id=None)
        return [greedy, model.generate(PROMPTS, max_new_tokens=8, do_sample=True)]  # a random Gemma's greedy answers are echoes

    alone, shared = one_by_one(model, several, answers), together(model, several, answers)
    assert shared == alone
    assert len({str(each) for each in alone}) == len(several), "the conditions do differ"
    swapped = together(model, several[::-1], answers)
    assert swapped == alone[::-1]
    assert not model.intercepted


@pytest.mark.parametrize("rows", [2, 256])
def test_every_metric_gives_the_same_numbers_either_way(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_ROWS", rows)
    model = tiny_model("qwen3")
    several, examples = conditions(model), tiny_examples()
    for metric in (reasoning_length(max_new_tokens=9), exact_answer(), response_margin):
        questions = Questions(metric, examples, [], seed=2)
        alone, shared = (list(Meter(model, questions, TEXTS, share=share).measure(several)) for share in (False, True))
        for one, other in zip(alone, shared, strict=True):
            np.testing.assert_allclose(one.attribute, other.attribute, atol=1e-5)
            np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)
            np.testing.assert_allclose(one.divergences, other.divergences, atol=1e-4)
            assert one.answers == other.answers
        if metric is response_margin:
            assert len({float(each.attribute.mean()) for each in alone}) == len(several)


def test_prompts_that_conditions_do_not_share_and_jobs_of_other_lengths_come_out_right() -> None:
    model = tiny_model()
    several = conditions(model)

    def job(model: Watched, index: int) -> list[list[list[int]]]:
        rounds = [model.generate(PROMPTS[: 1 + index % 3], max_new_tokens=4 + index)]
        if index % 2:
            rounds.append(model.generate(PROMPTS[::-1], max_new_tokens=3, do_sample=True))
        return rounds

    assert together(model, several, job) == one_by_one(model, several, job)


def test_logits_come_whole_or_reduced_under_each_condition() -> None:
    model = tiny_model()
    several = conditions(model)
    ids, mask = model.pad(PROMPTS)

    def job(model: Watched, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole = model.logits(ids, mask)
        return whole, model.logits(ids, mask, starts=[1, 1, 2, 2], reduce=lambda logits: logits.amax(dim=(1, 2)))

    for (whole, reduced), (one, small) in zip(together(model, several, job), one_by_one(model, several, job), strict=True):
        torch.testing.assert_close(whole[mask.bool()], one[mask.bool()], atol=1e-4, rtol=0)
        torch.testing.assert_close(reduced, small, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "look",
    [
        lambda model: model.weight("mlp", 0),
        lambda model: model.twin,
        lambda model: model.weight_hash(),
        lambda model: model.intercept({}),
        lambda model: model.bridge,
        lambda model: model.run(*model.pad(PROMPTS)),
    ],
)
def test_a_job_that_looks_inside_is_measured_one_condition_at_a_time(look) -> None:
    model = tiny_model()

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        look(model)
        return [float(model.weight("mlp", 0).detach().sum())]

    several = conditions(model)[:3]
    with pytest.raises(NeedsWeights):
        together(model, several, lambda model, index: look(model))
    questions = Questions(Metric("weights", measure), tiny_examples(), [])
    meter = Meter(model, questions, TEXTS)
    found = [float(each.attribute[0]) for each in meter.measure(several)]
    assert len(set(found)) == 3, "the edited weights were seen"
    with pytest.raises(NeedsWeights):
        list(Meter(model, questions, TEXTS, share=True).measure(several))


@pytest.mark.parametrize("share", [None, False])
def test_a_metric_may_set_hooks_of_its_own(share: bool | None) -> None:
    model = tiny_model()

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        seen: list[float] = []
        with model.intercept({("mlp", 1): lambda x, y: seen.append(float(y.norm()))}):
            model.logits(*model.pad(PROMPTS))
        return seen

    meter = Meter(model, Questions(Metric("norm", measure), tiny_examples(), []), TEXTS, share=share)
    found = [float(each.attribute[0]) for each in meter.measure(conditions(model))]
    assert len(set(found)) == 5, "each condition was seen"


def test_an_error_in_one_job_is_raised_and_ends_the_others() -> None:
    import threading

    model = tiny_model()

    def job(model: Watched, index: int) -> None:
        model.generate(PROMPTS, max_new_tokens=2)
        if index == 1:
            raise ZeroDivisionError("mine")
        model.generate(PROMPTS, max_new_tokens=2)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="mine"):
        together(model, conditions(model), job)
    assert threading.active_count() == before
    assert not model.intercepted
    with pytest.raises(ModelError, match="do not fit the context"):
        together(model, conditions(model), lambda model, index: model.generate(PROMPTS, max_new_tokens=10_000))
    assert threading.active_count() == before


def test_a_metric_of_choices_is_shared_too() -> None:
    model = tiny_model()
    pairs = [
        TokenizedExample(label, (1, prompt, word), 2)
        for prompt in (5, 6, 7, 8, 9, 10)
        for label, word in (("positive", 40), ("negative", 90))
    ]
    questions = Questions(true_answer_preferred(), pairs, [])
    several = conditions(model)
    alone, shared = (list(Meter(model, questions, TEXTS, share=share).measure(several)) for share in (False, True))
    assert [each.attribute.tolist() for each in alone] == [each.attribute.tolist() for each in shared]


def test_the_faster_way_is_taken_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    ways: list[tuple[bool, int]] = []
    clock = iter(range(10_000))
    cost = {True: 1, False: 1}

    def fake(self: Meter, conditions, names, *, share: bool):
        ways.append((share, len(conditions)))
        for _ in range(cost[share] * len(conditions)):
            next(clock)
        return whole(self, conditions, names, share=False)

    whole = Meter._measure
    monkeypatch.setattr(Meter, "_measure", fake)
    monkeypatch.setattr("s2e_lens.evaluation.measure.perf_counter", lambda: float(next(clock)))
    for faster in (True, False):
        cost.update({faster: 1, not faster: 50})
        ways.clear()
        meter = Meter(model, Questions(response_margin, tiny_examples(), []), TEXTS)
        assert len(list(meter.measure([Condition()] * 30))) == 30
        assert {share for share, _ in ways[:2]} == {True, False}
        assert {share for share, _ in ways[2:-1]} == {faster}


def test_answers_that_are_empty_cut_or_repeating_are_counted() -> None:
    model = tiny_model()
    seen = Watched(model)
    answers = seen.generate(PROMPTS, max_new_tokens=40)
    assert sum(seen.counts.values()) == len(answers)
    assert seen.counts == {kind: sum(fault(a, 40) == kind for a in answers) for kind in seen.counts}
    seen.generate(PROMPTS, max_new_tokens=40, eos_token_id=list(range(128)))
    assert seen.counts["empty"] >= len(PROMPTS)
    assert fault([7] * 16, 40) == fault([1, 2, 3] + [4, 5, 6, 7] * 4, 40) == "repeating"
    assert fault([7] * 15, 40) == fault([4, 5, 6, 7] * 3, 40) == "fine"
    assert fault(list(range(12)), 12) == "fine", "meant to be cut"
    assert fault(list(range(40)), 40) == "cut"


def test_a_metric_that_fails_names_the_condition() -> None:
    model = tiny_model()
    metric = Metric("mine", lambda model, examples: [1 / 0])
    for share in (False, True):
        with pytest.raises(ExamplesError, match="'mine' failed under steering 0.5"):
            meter = Meter(model, Questions(metric, tiny_examples(), []), TEXTS, share=share)
            list(meter.measure([Condition()], labels=["steering 0.5"]))
