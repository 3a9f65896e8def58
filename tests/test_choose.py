"""Choosing an edit on the validation questions."""

from collections.abc import Sequence

import pytest
import torch

from s2e_lens import Behavior, prepare_edit
from s2e_lens.behaviors import Metric, Task, TokenizedExample
from s2e_lens.editor import EditBasis, plan_to_gain
from s2e_lens.errors import PlanError
from s2e_lens.evaluation import Bench, Grid, tokenize_questions
from s2e_lens.evaluation.tradeoff import Tolerance
from s2e_lens.models import LensModel
from s2e_lens.pipeline.choose import choose_edit
from s2e_lens.results import SITES, Edit
from tests.helpers import tiny_directions, tiny_examples
from tests.tiny import tiny_hf, tiny_model

NEUTRAL = ("w5 w9 w40 w41 w42", "w100 w7")


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model()


@pytest.fixture(scope="module")
def basis(model: LensModel) -> EditBasis:
    return prepare_edit(model, tiny_directions(model))


def edit_grid(model: LensModel, attn=(None, 0.5), mlp=(None, 1.0, 2.0, 4.0), alphas=(0.05, 0.5)) -> list[Edit]:
    bench = Bench(model, tiny_directions(model))
    return [bench.edit(setting) for setting in Grid(attn, mlp, alphas, by="gain").settings(bench)]


def moved(model: LensModel) -> float:
    """How far the weights are from the unedited ones: what these tests call attribute or damage."""
    plain = dict(tiny_hf().named_parameters())
    return float(sum((p - plain[name]).detach().norm() for name, p in model.twin.named_parameters() if name in plain))


def metric(name: str, value, *, higher: bool = True, seen: list[str] | None = None) -> Metric:
    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        if seen is not None:
            seen.append(name)
        return [value(moved(model))] * len(examples)

    return Metric(name, measure, higher_is_better=higher)


def behavior(attribute: Metric, *tasks: Metric) -> Behavior:
    examples = tiny_examples()
    train, validation, test = examples[:4], examples[4:8], examples[8:12]
    utility = tuple(Task(each.name, each, test=test, validation=validation) for each in tasks)
    return Behavior("moved", train=train, validation=validation, test=test, attribute=attribute, utility=utility)


def test_the_largest_gain_is_the_one_asked_for(basis: EditBasis) -> None:
    for relative in (False, True):
        edit = plan_to_gain(basis, {"attn": 0.5, "mlp": 2.0}, alpha=0.3, relative=relative)
        for site, want in (("attn", 0.5), ("mlp", 2.0)):
            assert float(basis[site].gain(edit[site][0]).max()) == pytest.approx(want, rel=1e-3)
    assert not plan_to_gain(basis, {"mlp": 2.0}).attn
    with pytest.raises(PlanError, match="must be positive"):
        plan_to_gain(basis, {"attn": 0.0})


def test_the_grid_has_every_combination_once_and_the_weakest_last(model: LensModel, basis: EditBasis) -> None:
    edits = edit_grid(model, attn=(None, 0.5, 1.0), mlp=(None, 2.0))
    assert len(edits) == (3 * 2 - 1) * 2
    settings = [tuple(edit.provenance.settings[name] for name in ("rho_attn", "rho_mlp", "alpha")) for edit in edits]
    assert len(set(settings)) == len(edits)
    doses = [sum(float(basis[site].dose(term).sum()) for site in SITES for term in edit[site]) for edit in edits]
    assert doses == sorted(doses, reverse=True)


def test_the_best_attribute_within_the_tolerance_is_taken(model: LensModel) -> None:
    edits = edit_grid(model, attn=(None,), mlp=(0.5, 1.0, 2.0, 4.0), alphas=(0.05,))
    sizes = [sum(float(term.lam.square().sum()) for site in SITES for term in edit[site]) for edit in edits]
    assert sizes == sorted(sizes, reverse=True)
    limit = 1 / 1e3
    harm = metric("harm", lambda far: 1 - far * limit)
    what = behavior(metric("moved", lambda far: far), harm)
    questions = tokenize_questions(model, what, "validation")
    everything = choose_edit(model, what, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(1.0, 1.0))
    assert everything.taken.edit is edits[0]
    assert [trial.edit for trial in everything.trials] == list(edits)  # attribute falls with size here
    # A tolerance between the losses of two settings takes the weaker one.
    second = everything.trials[1]
    loss = second.attribute * limit
    choice = choose_edit(model, what, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(loss * 1.0001, 1.0))
    assert choice.taken.edit is edits[1]
    assert choice.trials[0].utility is None
    assert choice.taken.utility == pytest.approx(1 - loss)
    # Lower is better: the same attribute, as something to keep low, finds no improvement: the weakest is taken.
    low = behavior(metric("moved", lambda far: far, higher=False), harm)
    questions = tokenize_questions(model, low, "validation")
    assert choose_edit(model, low, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(1.0, 1.0)).taken.edit is edits[-1]


def test_a_hopeless_setting_is_not_measured_to_the_end(model: LensModel, basis: EditBasis) -> None:
    seen: list[str] = []
    tasks = [metric(name, lambda far: float(far == 0), seen=seen) for name in ("first", "second", "third")]
    what = behavior(metric("moved", lambda far: far), *tasks)
    edits = edit_grid(model, attn=(None,), mlp=(1.0, 2.0), alphas=(0.05,))
    choice = choose_edit(
        model, what, edits, tokenize_questions(model, what, "validation"), neutral=NEUTRAL, tolerance=Tolerance(0.1, 1.0)
    )
    assert seen == ["first", "second", "third", "first", "first"]
    assert choice.taken.edit is edits[-1]
    assert choice.taken.utility is None


def test_without_tasks_perplexity_is_what_must_not_suffer(model: LensModel) -> None:
    edits = edit_grid(model, attn=(None,), mlp=(0.25, 8.0), alphas=(0.05,))
    what = behavior(metric("moved", lambda far: far))
    questions = tokenize_questions(model, what, "validation")
    loose = choose_edit(model, what, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(1e6, 1.0))
    assert loose.taken.edit is edits[0]
    assert loose.base_utility < 0
    strict = choose_edit(model, what, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(-1.0, 1.0))
    assert strict.taken.edit is edits[-1]


def test_choosing_leaves_the_weights_and_the_random_numbers_alone(model: LensModel) -> None:
    what = behavior(metric("moved", lambda far: far))
    state = torch.get_rng_state()
    before = model.weight_hash()
    choose_edit(model, what, edit_grid(model), tokenize_questions(model, what, "validation"), neutral=NEUTRAL)
    assert model.weight_hash() == before
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(PlanError, match="no edit"):
        choose_edit(model, what, [], tokenize_questions(model, what, "validation"), neutral=NEUTRAL)


def test_an_edit_that_breaks_one_task_is_not_taken_however_good_the_mean(model: LensModel) -> None:
    edits = edit_grid(model, attn=(None,), mlp=(0.5, 4.0), alphas=(0.05,))
    far = [sum(float(term.lam.square().sum()) for site in SITES for term in edit[site]) ** 0.5 for edit in edits]
    border = sum(far) / 2  # between the two edits
    better = metric("better", lambda moved: 1.0 if moved > border else 0.7)
    worse = metric("worse", lambda moved: 0.7 if moved > border else 0.9)
    what = behavior(metric("moved", lambda far: far), better, worse)
    questions = tokenize_questions(model, what, "validation")
    loose = choose_edit(model, what, edits, questions, neutral=NEUTRAL, tolerance=Tolerance(0.04, 1.0))
    assert loose.taken.edit is edits[0]
    assert choose_edit(model, what, edits, questions, neutral=NEUTRAL).taken.edit is edits[1]
