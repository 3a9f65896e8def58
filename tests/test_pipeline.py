"""The main job on a real pretrained model, with happy and sad sentences."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from s2e_lens import Behavior, edited, load_model, read_examples, run, steered, tokenize_examples
from s2e_lens.behaviors.behavior import read_neutral
from s2e_lens.editor import plan_edit, plan_to_count
from s2e_lens.errors import ExamplesError, ExportError
from s2e_lens.evaluation import response_margin
from s2e_lens.pipeline import Outcome
from s2e_lens.pipeline.report import write_report
from s2e_lens.pipeline.tables import components_frame, summary
from s2e_lens.results import SITES
from tests.tiny import STORIES, needs_stories, tiny_model

HAPPY_SAD = Path(__file__).parent / "data" / "happy_sad.jsonl"
pytestmark = needs_stories


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    model = load_model(STORIES)
    behavior = Behavior.from_examples("happy", read_examples(HAPPY_SAD), neutral=read_neutral()[:12])
    return run(model, behavior, strengths=(0.5, 1.0, 2.0))


def margin(outcome: Outcome) -> float:
    test = tokenize_examples(outcome.model, outcome.behavior.test)
    return float(np.mean(response_margin.measure(outcome.model, test)))


def test_edit_and_steering_make_held_out_happy_sentences_likelier(outcome: Outcome) -> None:
    base, edit, _, *steering = outcome.points
    assert base.change.value == 0.0
    assert edit.change.value > 0.02
    changes = [each.change.value for each in steering]
    assert changes == sorted(changes)
    assert changes[0] > 0.02
    # Negative controls: the opposite edit and the opposite strength push the other way.
    with edited(outcome.model, -1.0 * outcome.edit):
        assert margin(outcome) < base.attribute.value - 0.02
    with steered(outcome.model, outcome.directions, -1.0):
        assert margin(outcome) < base.attribute.value - 0.02


def test_no_prompt_is_both_trained_and_measured_on(outcome: Outcome) -> None:
    train, test = ({example.key for example in split} for split in (outcome.behavior.train, outcome.behavior.test))
    assert not train & test
    assert len(test) == 15
    assert outcome.directions.means.positive.count == len(train) == 45


def test_the_reported_numbers_are_those_of_the_model_under_each_condition(outcome: Outcome) -> None:
    """Measured again, one condition at a time, outside the pipeline."""
    base, edit, weaker, half, *_ = outcome.points
    assert margin(outcome) == pytest.approx(base.attribute.value, abs=1e-6)
    with edited(outcome.model, outcome.edit):
        assert margin(outcome) == pytest.approx(edit.attribute.value, abs=1e-6)
    with steered(outcome.model, outcome.directions, 0.5):
        assert margin(outcome) == pytest.approx(half.attribute.value, abs=1e-6)
    with edited(outcome.model, 0.5 * outcome.edit):
        assert margin(outcome) == pytest.approx(weaker.attribute.value, abs=1e-6)
    assert base.items.perplexity == pytest.approx(base.utility.value, rel=1e-6)
    assert edit.items.kl > weaker.items.kl > 0.001


def test_the_default_plan_has_the_dose_of_steering_at_strength_one(outcome: Outcome) -> None:
    for site in SITES:
        assert outcome.basis[site].relative_dose(outcome.edit[site][0]) == pytest.approx(1.0, rel=1e-3)


def test_the_component_table_lists_every_edited_component_and_its_dose_adds_up(outcome: Outcome) -> None:
    table = components_frame(outcome)
    assert len(table) == outcome.edit.count("attn") + outcome.edit.count("mlp")
    assert (table["dose"] >= -1e-7).all()
    assert table["label"].is_unique
    total = sum(float(outcome.basis[site].dose(outcome.edit[site][0]).sum()) for site in SITES)
    assert table["dose"].sum() == pytest.approx(total, rel=1e-4)
    row = table[table["label"] == "L4H7"].iloc[0]
    assert row["lambda"] == pytest.approx(float(outcome.edit.attn[0].lam[4, 7]))


def test_the_summary_holds_what_was_measured(outcome: Outcome) -> None:
    found = summary([outcome])["behaviors"]["happy"]
    base, edit, _, *steering = outcome.points
    assert found["attribute"]["base"] == base.attribute.value
    assert found["attribute"]["edit"] == edit.attribute.value
    assert found["attribute"]["steering"] == [[each.setting.strength, each.attribute.value] for each in steering]
    assert found["utility"]["steering"][0] == [0.5, steering[0].items.perplexity]
    assert found["edit"]["heads"] == outcome.edit.count("attn")
    assert set(found["edit"]) >= {"rho_attn", "rho_mlp", "alpha", "heads", "neurons"}
    for key in ("gain_at_matched_utility", "gain_at_matched_kl"):
        assert set(found[key]) >= {"value", "low", "high", "p", "settings_tried"}
        assert found[key]["settings_tried"] == 1  # planned without looking
    at_kl = outcome.comparison.at_kl
    assert found["gain_at_matched_kl"]["value"] == pytest.approx(edit.attribute.value - at_kl.other)
    assert set(found["controls"]) == {"random components", "random components, signs too", "random direction"}


def test_every_sample_has_an_answer_under_every_condition(outcome: Outcome) -> None:
    assert len(outcome.samples) == 4
    for sample in outcome.samples:
        assert set(sample) == {"prompt", "unedited", "edit", "steering 0.5", "steering 1", "steering 2"}
        assert sample["unedited"]


def test_the_model_is_left_as_it_was(outcome: Outcome) -> None:
    assert outcome.model.weight_hash() == load_model(STORIES).weight_hash() == outcome.edit.provenance.weight_hash


@pytest.mark.parametrize("planner", [partial(plan_edit, rho_mlp=2.0, alpha=0.05), partial(plan_to_count, heads=3, alpha=0.5)])
def test_a_report_of_one_site_alone_is_written(outcome: Outcome, tmp_path: Path, planner) -> None:
    edit = planner(outcome.basis)
    one = run(outcome.model, outcome.behavior, planner=planner, strengths=(1.0,), out=tmp_path / "report")
    assert one.edit.count("attn") == edit.count("attn")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "left out" in page


def test_a_planner_may_bring_a_scaled_edit_or_a_sum(outcome: Outcome, tmp_path: Path) -> None:
    both = 0.3 * outcome.edit + 0.2 * outcome.edit
    for edit in (2.0 * outcome.edit, both):
        one = run(
            outcome.model, outcome.behavior, planner=lambda basis, edit=edit: edit, strengths=(1.0,), out=tmp_path / "report"
        )
        found = summary([one])["behaviors"]["happy"]["edit"]["relative_dose"]
        want = 2.0 if edit is not both else 0.5
        assert found == pytest.approx({"attn": want, "mlp": want}, rel=1e-3)
        assert "edit, λ × 0.5" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_random_directions_get_a_strength_that_is_as_far_as_the_edit(outcome: Outcome) -> None:
    aside = [each for each in outcome.comparison.controls if each.setting.method == "random direction"]
    steering = {each.setting.strength: each.items.kl for each in outcome.comparison.curve}
    want = min(steering, key=lambda strength: abs(steering[strength] - outcome.comparison.edit.items.kl))
    assert {each.setting.options["strength"] for each in aside} == {want}


def test_a_report_page_needs_no_network_and_shows_markup_literally(outcome: Outcome, tmp_path: Path) -> None:
    import dataclasses

    hostile = dataclasses.replace(outcome, samples=[{**outcome.samples[0], "unedited": "<img src=x onerror=alert(1)>"}])
    write_report([hostile], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "<script src" not in page
    assert "<link" not in page.split("<script>")[0]


def test_something_else_at_the_reports_place_is_not_overwritten(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="not empty"):
        write_report([outcome], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_behaviour_without_test_examples_is_refused() -> None:
    behavior = Behavior("mine", train=read_examples(HAPPY_SAD), test=[])
    with pytest.raises(ExamplesError, match="nothing was set aside"):
        run(tiny_model(), behavior)
