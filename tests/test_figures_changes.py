import dataclasses
from unittest.mock import Mock

import numpy as np
import pytest

from s2e_lens.errors import ShapeError
from s2e_lens.evaluation.measure import Items
from s2e_lens.pipeline.sweeps import SweepResult, sweep_changes
from s2e_lens.visualizers import HOUSE, changes_info, changes_table, draw_changes
from s2e_lens.visualizers.changes_plot import MOST, cell_counts, lattice
from s2e_lens.visualizers.style import NEGATIVE, POSITIVE
from tests.figures import titles, trace


def items(attribute, right=(1, 1, 0), *, kl: float = 0.0, length: int = 4, **others) -> Items:
    rng = np.random.default_rng(0)
    known = {
        "attribute": np.array(attribute, dtype=np.float64),
        "tasks": {"sort": np.array(right, dtype=np.float64), "sum": np.array(right[::-1], dtype=np.float64)},
        "also": {},
        "losses": rng.uniform(1, 2, length),
        "divergences": np.arange(length) * kl,
        "tokens": np.full(length, 10.0),
    }
    return Items(**{**known, **others})


BEFORE, AFTER = items([0, 0.5, 1, 0, 1]), items([1, 0.5, 1, 0.5, 0], right=(1, 0, 1), kl=0.3)


def changes(before: Items = BEFORE, after: Items = AFTER, **options):
    return changes_info(before, after, attribute="refusal", **options)


def test_items_are_counted_by_which_way_they_went():
    attribute, utility = changes().measures
    assert attribute.change.tolist() == [1, 0, 0, 0.5, -1]
    assert attribute.counts == (2, 2, 1)
    assert utility.counts == (2, 2, 2)
    assert utility.labels == ("sort 1", "sort 2", "sort 3", "sum 1", "sum 2", "sum 3")


def test_where_less_is_better_a_fall_is_an_improvement():
    attribute = changes(higher_is_better=False).measures[0]
    assert attribute.counts == (1, 2, 2)
    assert attribute.better.tolist() == [-1, 0, 0, -1, 1]


def test_cells_hold_every_item_once_and_their_numbers_are_written():
    attribute, utility = changes().measures
    assert attribute.levels == (0.0, 0.5, 1.0)
    assert cell_counts(attribute).tolist() == [[0, 0, 1], [1, 1, 0], [1, 0, 1]]
    assert cell_counts(utility).tolist() == [[0, 2], [2, 2]]
    numbers = [each for each in draw_changes(changes()).layout.annotations if each.text.isdigit()]
    on_first = {(each.x, each.y): each.text for each in numbers if each.xref == "x"}
    assert on_first == {(2, 0.5): "1", (0, 1.5): "1", (1, 1.5): "1", (0, 2.5): "1", (2, 2.5): "1"}


def test_every_dot_lies_in_the_cell_of_its_step():
    rng = np.random.default_rng(1)
    before, after = (items(rng.integers(0, 2, 300), right=(1, 1)) for _ in range(2))
    attribute = changes(before, after).measures[0]
    places = lattice(attribute)
    assert len(np.unique(places, axis=0)) == 300
    np.testing.assert_array_equal(np.round(places[:, 0]), attribute.before)
    np.testing.assert_array_equal(np.round(places[:, 1]), attribute.after)


def test_of_many_unchanged_items_some_are_drawn_but_each_changed_one():
    before = np.array([1.0] * 2000 + [0.0] * 700)
    after = np.array([1.0] * 2700)
    attribute = changes(items(before), items(after)).measures[0]
    drawn = np.isfinite(lattice(attribute)[:, 0])
    assert int(drawn[:2000].sum()) == MOST
    assert drawn[2000:].all()
    assert "2,000" in titles(draw_changes(changes(items(before), items(after))))


def test_a_continuous_measure_is_a_scatter_around_the_diagonal():
    before, after = items([10.5, 20, 30, 40, 50.5, 60]), items([12, 18.5, 30, 41, 49, 20])
    figure = draw_changes(changes(before, after, higher_is_better=False))
    better, worse, same = (trace(figure, f"refusal, {word}") for word in ("better", "worse", "same"))
    assert sorted(zip(better.x.tolist(), better.y.tolist(), strict=True)) == [(20, 18.5), (50.5, 49), (60, 20)]
    assert sorted(zip(worse.x.tolist(), worse.y.tolist(), strict=True)) == [(10.5, 12), (40, 41)]
    assert same.x.tolist() == [30]
    assert (better.marker.color, worse.marker.color) == (POSITIVE, NEGATIVE)
    diagonal = trace(figure, "no change")
    assert list(diagonal.x) == list(diagonal.y)


def test_the_hover_tells_the_prompt_and_both_values():
    figure = draw_changes(changes(prompts=["how <b>", "b", "c", "d", "e"]))
    (found,) = [text for text in trace(figure, "refusal, better").text if text.startswith("how")]
    assert found == "how &lt;b&gt;<br>unedited 0, edit 1"
    assert trace(draw_changes(changes()), "refusal, worse").text[0].startswith("prompt 5<br>")


def test_kl_is_per_token_and_the_largest_comes_first():
    info = changes()
    np.testing.assert_allclose(info.kl, [0, 0.03, 0.06, 0.09])
    bars = trace(draw_changes(info), "KL")
    np.testing.assert_allclose(bars.y, [0.09, 0.06, 0.03, 0], rtol=1e-6)
    assert bars.text[0] == "passage 4"


def test_the_means_are_those_of_the_tables_where_sizes_differ():
    tasks = {"sort": np.array([1.0, 1, 1, 1, 0, 0]), "sum": np.array([0.0, 1])}
    after_tasks = {"sort": np.array([1.0, 1, 1, 1, 1, 1]), "sum": np.array([0.0, 0])}
    tokens = np.array([1.0, 10, 100, 3])
    before = items([0, 1, 1], tasks=tasks, tokens=tokens)
    after = items([1, 1, 1], tasks=after_tasks, tokens=tokens, divergences=np.array([0.5, 1.0, 2.0, 0.1]), losses=tokens * 2)
    info = changes(before, after)
    assert info.measures[1].means == (before.utility, after.utility)
    assert info.mean_kl == after.kl
    # Negative control: means over items and over passages are others.
    assert info.measures[1].before.mean() != pytest.approx(before.utility)
    assert info.kl.mean() != pytest.approx(after.kl)
    written = " ".join(titles(draw_changes(info)))
    assert f"mean {before.utility:.3g} → {after.utility:.3g}<br>" in written
    assert f"mean {after.kl:.2g} nats per token" in written
    first, second = (dataclasses.replace(each, tasks={}) for each in (before, after))
    neutral = changes(first, second).measures[1]
    assert neutral.means == (-first.utility, -second.utility)
    assert neutral.before.mean() != pytest.approx(neutral.means[0])


def test_kl_to_the_unedited_model_is_left_out_where_before_is_another():
    info = changes(items([0, 1, 1, 0, 1], kl=0.1), AFTER, names=("steering", "edit"))
    assert info.kl is None
    figure = draw_changes(info)
    assert not [each for each in figure.data if each.name == "KL"]
    assert {"steering", "edit"} <= titles(figure)


def test_without_tasks_the_utility_is_the_loss_of_each_passage():
    before, after = (dataclasses.replace(each, tasks={}) for each in (BEFORE, AFTER))
    after = dataclasses.replace(after, losses=before.losses + np.array([1, -1, 0, 2]))
    utility = changes(before, after).measures[1]
    np.testing.assert_allclose(utility.change, [0.1, -0.1, 0, 0.2], atol=1e-12)
    assert utility.counts == (1, 1, 2)


def test_further_metrics_have_panels_of_their_own():
    before = dataclasses.replace(BEFORE, also={"length": np.array([1.0, 9])})
    after = dataclasses.replace(AFTER, also={"length": np.array([2.0, 8])})
    info = changes(before, after, lower_is_better=["length"])
    assert [each.name for each in info.measures] == ["refusal", "length", "utility tasks"]
    assert info.measures[1].counts == (1, 0, 1)
    assert info.measures[1].better.tolist() == [-1, 1]
    assert draw_changes(info).layout.template == HOUSE


def test_a_sweeps_further_metrics_can_be_such_that_less_is_better():
    before = dataclasses.replace(BEFORE, also={"length": np.array([1.0, 9])})
    after = dataclasses.replace(AFTER, also={"length": np.array([2.0, 9])})
    comparison = Mock(base=Mock(items=before), edit=Mock(items=after), higher_is_better=True)
    result = Mock(spec=SweepResult, manifest={"attribute": "refusal"}, comparison=comparison)
    assert sweep_changes(result).measures[1].counts == (1, 1, 0)
    assert sweep_changes(result, lower_is_better=["length"]).measures[1].counts == (0, 1, 1)


def test_the_table_names_the_largest_changes_first():
    table = changes_table(changes(prompts=list("abcde")))
    assert list(table.columns) == ["measure", "item", "unedited", "edit", "change", "better"]
    first = table[table["measure"] == "refusal"]
    assert list(first["item"]) == ["a", "e", "d", "b", "c"]
    assert list(first["change"]) == [1, -1, 0.5, 0, 0]
    assert len(table) == 5 + 6


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (BEFORE, items([1, 0]), "the same ones are needed"),
        (items([]), items([]), "the same ones are needed"),
        (BEFORE, items([1, 0, np.nan, 1, 1]), "NaN or infinity"),
        (BEFORE, dataclasses.replace(AFTER, tasks={}), "the same split of one behaviour"),
        (BEFORE, dataclasses.replace(AFTER, also={"x": np.zeros(2)}), "the same split of one behaviour"),
    ],
)
def test_items_that_do_not_belong_together_are_refused(before, after, message):
    with pytest.raises(ShapeError, match=message):
        changes(before, after)


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="2 texts came for 5 items"):
        changes(prompts=["a", "b"])
    with pytest.raises(ShapeError, match=r"texts came for the tasks \['other'\]"):
        changes(tasks={"other": ["a"]})
    assert changes(tasks={"sort": ["x", "y", "z"]}).measures[1].labels[:4] == ("sort 1: x", "sort 2: y", "sort 3: z", "sum 1")
