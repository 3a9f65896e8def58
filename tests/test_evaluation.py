"""Log-probabilities, fluency, margins and intervals, against plain loops."""

import math

import numpy as np
import pytest
import torch

from s2e_lens import edited
from s2e_lens.behaviors import TokenizedExample
from s2e_lens.behaviors.behavior import Metric
from s2e_lens.editor.apply import edit_effects
from s2e_lens.effects import Effect, Intervention
from s2e_lens.errors import ExamplesError, ModelError
from s2e_lens.evaluation import (
    Condition,
    Items,
    Meter,
    NeutralText,
    Questions,
    Resampled,
    estimate,
    logprobs,
    response_logprobs,
    response_margin,
)
from s2e_lens.models import LensModel
from tests.helpers import tiny_edit, tiny_examples
from tests.tiny import tiny_hf, tiny_model

TEXTS = ("w5 w9 w40 w41 w42", "w100 w7", "w30 w31 w32 w33 w34 w35 w36")


def measured(model: LensModel, *conditions: Condition, metric: Metric = response_margin, seed: int = 0) -> list[Items]:
    questions = Questions(metric, tiny_examples(), [], seed=seed)
    return list(Meter(model, questions, TEXTS).measure(conditions))


def plain_logprobs(hf: torch.nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    """log p(token i+1 | tokens up to i) of one sequence, one position at a time."""
    with torch.no_grad():
        logits = hf(torch.tensor([ids])).logits[0].double()
    return torch.stack([logits[i].log_softmax(-1)[ids[i + 1]] for i in range(len(ids) - 1)])


def test_response_logprobs_are_the_mean_over_response_tokens_the_first_included() -> None:
    model, hf, examples = tiny_model(), tiny_hf(), tiny_examples()
    got = response_logprobs(model, examples)
    for i, example in enumerate(examples):
        want = plain_logprobs(hf, example.input_ids)[example.start - 1 :].mean()
        assert float(got[i]) == pytest.approx(float(want), abs=1e-5)
    late = [float(plain_logprobs(hf, e.input_ids)[e.start :].mean()) for e in examples if len(e.input_ids) - e.start > 1]
    kept = [float(got[i]) for i, e in enumerate(examples) if len(e.input_ids) - e.start > 1]
    assert max(abs(a - b) for a, b in zip(late, kept, strict=True)) > 1e-3  # without the first token it is another number


def test_perplexity_and_kl_are_those_of_a_loop() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    base, got = measured(model, Condition(), Condition(edit_effects(edit)))
    hf, changed = tiny_hf(), tiny_hf()
    with edited(model, edit):
        changed.load_state_dict(model.twin.state_dict())
    losses, kls = [], []
    for text in TEXTS:
        ids = tuple(model.text.text_ids(text))
        losses += plain_logprobs(changed, ids).tolist()
        with torch.no_grad():
            p, q = (m(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1) for m in (hf, changed))
        kls += (p.exp() * (p - q)).sum(-1).tolist()
    assert got.perplexity == pytest.approx(math.exp(-np.mean(losses)), rel=1e-4)
    assert got.kl == pytest.approx(np.mean(kls), rel=1e-3)
    assert got.tokens.sum() == len(losses)
    assert base.kl == 0.0
    assert got.kl > 0.01
    assert got.utility == pytest.approx(np.mean(losses), rel=1e-4)  # without tasks


def test_neutral_text_without_two_tokens_is_refused() -> None:
    with pytest.raises(ExamplesError, match="two tokens"):
        NeutralText(tiny_model(), [""])


def test_the_margin_is_paired_by_prompt_where_it_can_be() -> None:
    model = tiny_model()
    pairs = [
        TokenizedExample(label, (1, prompt, word), 2)
        for prompt in (5, 6, 7)
        for label, word in (("positive", 40), ("negative", 90))
    ]
    logprobs = response_logprobs(model, pairs)
    items = response_margin.measure(model, pairs)
    assert items == pytest.approx([float(logprobs[i] - logprobs[i + 1]) for i in (0, 2, 4)])


def test_the_mean_of_an_unpaired_margin_is_the_difference_of_class_means() -> None:
    model, examples = tiny_model(), tiny_examples(9)
    logprobs = response_logprobs(model, examples).numpy()
    positive = np.array([e.label == "positive" for e in examples])
    want = logprobs[positive].mean() - logprobs[~positive].mean()
    assert np.mean(response_margin.measure(model, examples)) == pytest.approx(want)
    assert positive.sum() != (~positive).sum()


def test_the_interval_covers_the_mean_and_shrinks_with_the_sample() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    few, many = estimate(values[:20]), estimate(values)
    assert few.low < few.value < few.high
    assert many.high - many.low < few.high - few.low
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert estimate(values) == many  # seeded
    assert estimate([1.0, 2.0]).low is None
    assert estimate([2.0, 2.0, 2.0]).high is None


def test_groups_weigh_the_same_and_are_drawn_from_apart() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.0, 1.0, 50), rng.normal(4.0, 1.0, 800)
    both = estimate(few, many)
    assert both.value == pytest.approx((few.mean() + many.mean()) / 2)
    assert both.items == 850
    # Var of the mean of two means, a quarter of the sum of theirs; pooled items would give an interval of ±0.08 around 3.8.
    want = 1.96 * 0.5 * math.sqrt(few.var() / 50 + many.var() / 800)
    assert (both.high - both.low) / 2 == pytest.approx(want, rel=0.15)
    assert estimate([1.0, 1.0, 1.0], [0.0, 1.0, 0.0]).low is not None
    assert estimate([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]).low is None


def test_a_users_metric_must_give_finite_numbers_for_the_same_items() -> None:
    model = tiny_model()

    def measure_with(measure):
        return measured(model, Condition(), Condition(), metric=Metric("mine", measure))

    with pytest.raises(ExamplesError, match="NaN or infinite"):
        measure_with(lambda model, examples: [1.0, math.nan])
    with pytest.raises(ExamplesError, match="'mine' failed under condition 1: ZeroDivisionError"):
        measure_with(lambda model, examples: [1 / 0])
    calls = iter(([1.0, 2.0], [1.0]))
    base, fewer = measure_with(lambda model, examples: next(calls))
    with pytest.raises(ExamplesError, match="another number of items"):
        Resampled(base).attribute(fewer)
    base, again = measure_with(lambda model, examples: [1.0, 2.0, 4.0])
    assert base.attribute.mean() == pytest.approx(7 / 3)
    assert (again.attribute - base.attribute == 0.0).all()


def test_a_model_that_gives_nan_is_an_error_and_not_a_kl_of_zero() -> None:
    model = tiny_model()
    broken = Condition(Intervention({("mlp", 1): Effect(adds=torch.full((model.shapes.d_model,), math.nan))}))
    with pytest.raises(ModelError, match="under condition 2"):
        measured(model, Condition(), broken)


@pytest.mark.parametrize("share", [False, True])
def test_a_sampling_metric_repeats_itself_and_draws_the_same_noise_under_each_condition(share: bool) -> None:
    model = tiny_model()

    def measure(model: LensModel, examples: list[TokenizedExample]) -> list[float]:
        first = torch.rand(3).tolist()
        model.logits(*model.pad([[1, 5]]))  # others may run meanwhile
        return [*first, *torch.rand(2).tolist()]

    before = torch.random.get_rng_state()
    runs = []
    for seed in (3, 3, 4):
        questions = Questions(Metric("noise", measure), tiny_examples(), [], seed=seed)
        runs.append([each.attribute.tolist() for each in Meter(model, questions, TEXTS, share=share).measure([Condition()] * 3)])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] == runs[0][1] == runs[0][2]
    assert len(set(runs[0][0])) == 5


def test_windows_of_batches_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    edit = Condition(edit_effects(tiny_edit(model)))
    (whole,) = measured(model, edit)
    monkeypatch.setattr(logprobs, "WINDOW_NUMBERS", 1)
    monkeypatch.setattr(logprobs, "BATCH_TOKENS", 4)
    (parts,) = measured(model, edit)
    assert parts.kl == pytest.approx(whole.kl, rel=1e-4)
    assert parts.perplexity == pytest.approx(whole.perplexity, rel=1e-4)
    assert sorted(parts.tokens) == sorted(whole.tokens)
