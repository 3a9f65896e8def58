"""Gains at matched utility and KL: against values worked out by hand, a plain bootstrap loop and simulated data."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2e_lens.evaluation import Items, Record, Resampled, Setting, compare, matched_gain, pareto
from s2e_lens.evaluation.tradeoff import Tolerance, along, attribute_difference, best_within


def items(attribute, utility, kl: float = 0.0, passages: int = 5) -> Items:
    """Items with these values; a number stands for twenty items that are all alike."""
    attribute, utility = (
        np.full(20, float(each)) if np.ndim(each) == 0 else np.asarray(each, float) for each in (attribute, utility)
    )
    tokens = np.full(passages, 10.0)
    return Items(attribute, {"task": utility}, {}, tokens * 0.5, tokens * kl, tokens)


CURVE = [items(0.5, 0.9, 0.0), items(0.6, 0.8, 0.1), items(0.7, 0.5, 0.4)]


def test_the_gain_is_the_distance_to_the_line_between_two_strengths() -> None:
    draws = Resampled(CURVE[0], resamples=200)
    edit = items(0.72, 0.65, 0.25)
    at_utility = matched_gain(edit, CURVE, draws)
    assert at_utility.value == pytest.approx(0.72 - 0.65)  # half-way between 0.8 and 0.5
    assert at_utility.other == pytest.approx(0.65)
    assert at_utility.range == pytest.approx((0.5, 0.9))
    at_kl = matched_gain(edit, CURVE, draws, by="kl")
    assert at_kl.value == pytest.approx(0.72 - 0.65)
    assert at_kl.at == pytest.approx(0.25)
    assert matched_gain(edit, CURVE, draws, higher_is_better=False).value == pytest.approx(0.65 - 0.72)


@pytest.mark.parametrize("utility", [0.95, 0.45])
def test_nothing_is_extrapolated(utility: float) -> None:
    gain = matched_gain(items(0.9, utility), CURVE, Resampled(CURVE[0], resamples=200))
    assert (gain.value, gain.low, gain.high, gain.p, gain.other) == (None,) * 5
    assert "does not reach" in gain.note
    assert "0.5 to 0.9" in gain.note
    assert gain.outside == 1.0


def test_an_edit_that_costs_nothing_is_compared_though_sums_round() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        right = (rng.random(100) < 0.9).astype(float)
        base, same = items(np.zeros(20), right), items(np.ones(20), rng.permutation(right))
        gain = matched_gain(same, [base, items(np.zeros(20), np.full(100, 0.2))], Resampled(base, resamples=5))
        assert gain.value == pytest.approx(1.0)


def test_a_few_items_that_agree_prove_little() -> None:
    def p(count: int) -> float:
        first, second = items(np.ones(count), np.full(20, 0.9)), items(np.zeros(count), np.full(20, 0.9))
        return attribute_difference(first, second, Resampled(first)).p

    assert [p(count) for count in (1, 2, 5)] == [1.0, 0.5, 0.0625]
    assert p(30) < 0.001


def test_where_the_curve_passes_a_utility_twice_its_better_side_counts() -> None:
    back = [*CURVE, items(0.3, 0.7)]
    draws = Resampled(CURVE[0], resamples=100)
    at = items(0.8, 0.6)
    assert matched_gain(at, back, draws).other == pytest.approx(0.7 - 0.1 / 3)
    assert matched_gain(at, back, draws, higher_is_better=False).other == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=6), st.floats(-6, 6))
@example(points=[(0.0, 0.0), (5e-324, 1.0)], x=1.0)  # a piece so short that dividing by it overflows
@example(points=[(0.0, 0.0), (5e-324, 1.0)], x=0.0)
def test_along_is_a_loop_over_the_pieces(points: list[tuple[float, float]], x: float) -> None:
    best = None
    for (a, p), (b, q) in zip(points, points[1:], strict=False):
        if min(a, b) <= x <= max(a, b):
            heights = [p, q] if a == b else [p + (x - a) / (b - a) * (q - p)]
            best = max([*heights, *([] if best is None else [best])])
    xs, ys = (np.array([[point[i] for point in points]]) for i in (0, 1))
    (got,) = along(np.array([x]), xs, ys)
    assert np.isnan(got) if best is None else got == pytest.approx(best, abs=1e-6)


def test_the_interval_is_that_of_a_plain_bootstrap_loop_over_paired_items() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60)
    curve = [items(base, rng.random(60) + shift, 0.1 * i) for i, shift in enumerate((2.0, 1.0))]
    edit = items(base + rng.normal(0.3, 0.5, 60), rng.random(60) + 1.5, 0.05)
    gain = matched_gain(edit, curve, Resampled(edit, seed=1))
    loop = []
    for _ in range(3000):
        some, tasks = rng.integers(0, 60, 60), rng.integers(0, 60, 60)
        (u0, a0), (u1, a1), (u, a) = ((i.tasks["task"][tasks].mean(), i.attribute[some].mean()) for i in (*curve, edit))
        loop.append(a - (a0 + (u - u0) / (u1 - u0) * (a1 - a0)))
    low, high = np.percentile(loop, [2.5, 97.5])
    assert gain.low == pytest.approx(low, abs=0.02)
    assert gain.high == pytest.approx(high, abs=0.02)
    apart = dataclasses.replace(edit, attribute=rng.permutation(edit.attribute))
    unpaired = matched_gain(apart, curve, Resampled(edit, seed=1))
    assert unpaired.high - unpaired.low > 1.2 * (gain.high - gain.low), "pairing tells"
    assert matched_gain(edit, curve, Resampled(edit, seed=1)) == gain, "seeded"


def test_the_interval_covers_and_the_p_value_is_even_where_there_is_no_gain() -> None:
    """Simulated: the edit truly has the curve's attribute. 95 % of the intervals hold 0; 5 % of the p-values are below 0.05."""
    rng = np.random.default_rng(1)
    covered, small = 0, 0
    for seed in range(300):
        ability = rng.normal(0, 1, 80)

        def answers(shift: float, ability: np.ndarray = ability) -> np.ndarray:
            return (ability + rng.normal(0, 0.5, 80) + shift > 0).astype(float)

        curve = [items(answers(0.0), 0.9), items(answers(0.6), 0.7)]
        edit = items(answers(0.6), 0.7)
        gain = matched_gain(edit, curve, Resampled(edit, seed=seed, resamples=500))
        covered += gain.low <= 0 <= gain.high
        small += gain.p < 0.05
    assert covered / 300 == pytest.approx(0.95, abs=0.04)
    assert small / 300 == pytest.approx(0.05, abs=0.04)
    truly = items(np.r_[np.ones(70), np.zeros(10)], 0.7)
    gain = matched_gain(truly, [items(np.zeros(80), 0.9), items(np.r_[np.ones(10), np.zeros(70)], 0.7)], Resampled(truly))
    assert gain.p < 0.001
    assert gain.low > 0.4


def test_a_difference_of_attributes_is_paired_and_signed() -> None:
    first, second = items(np.arange(20) + 1.0, 0.9), items(np.arange(20), 0.9)
    draws = Resampled(first, resamples=200)
    up, down = (attribute_difference(first, second, draws, higher_is_better=each) for each in (True, False))
    assert (up.value, up.low, up.high) == pytest.approx((1.0, 1.0, 1.0))
    assert down.value == pytest.approx(-1.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_no_point_beats_one_of_the_pareto_set_and_each_other_is_beaten(points: list[tuple[float, float]]) -> None:
    points = [(float(a), float(b)) for a, b in points]
    kept = pareto(points)
    beats = [[c >= a and d >= b and (c, d) != (a, b) for c, d in points] for a, b in points]
    assert kept == [i for i in range(len(points)) if not any(beats[i])]


def test_the_best_attribute_within_the_tolerance_is_taken() -> None:
    points = [(0.9, 0.5), (0.8, 0.86), (0.7, 0.9), (0.85, 0.87)]
    assert best_within(points, (0.5, 0.9), [False, True, True, True]) == 3
    assert best_within(points, (0.5, 0.9), [False, True, True, False]) == 1
    assert best_within(points, (0.5, 0.9), [True] * 4) == 0
    assert best_within(points, (0.95, 0.9), [True] * 4) is None
    base = items(0.5, 0.9)
    assert [Tolerance(0.04, 1.0).allows(items(0.6, utility), base) for utility in (0.95, 0.86, 0.85)] == [True, True, False]


def test_a_mean_does_not_hide_a_broken_task() -> None:
    def with_tasks(**means: float) -> Items:
        return dataclasses.replace(items(0.6, 0.9), tasks={name: np.full(20, mean) for name, mean in means.items()})

    base = with_tasks(one=0.9, two=0.9, three=0.9)
    even, broken = with_tasks(one=0.87, two=0.87, three=0.87), with_tasks(one=0.9, two=0.95, three=0.75)
    assert even.utility == pytest.approx(0.87)
    assert broken.utility > even.utility - 0.01
    assert Tolerance(0.04, 0.1).allows(even, base)
    assert not Tolerance(0.04, 0.1).allows(broken, base)
    assert Tolerance(0.04, 0.2).allows(broken, base)


def record(method: str, found: Items, **options) -> Record:
    return Record(Setting(method, options), "test", {"update_norm": 1.0}, found)


def test_a_comparison_selects_on_validation_and_reports_on_test() -> None:
    validation = [
        record("base", items(0.5, 0.9)),
        record("steering", items(0.6, 0.88), strength=0.5),
        record("steering", items(0.9, 0.2), strength=1.0),
        *(record("edit", items(0.5 + 0.1 * i, 0.9), rho_mlp=float(i)) for i in range(3)),
    ]
    test = [
        record("base", items(0.5, 0.9)),
        record("steering", items(0.55, 0.8), strength=0.5),
        record("steering", items(0.95, 0.2), strength=1.0),
        record("edit", items(0.7, 0.85), rho_mlp=2.0),
        record("edit", items(0.99, 0.85), rho_mlp=0.0),  # better on test: not what was chosen
        record("random components", items(0.51, 0.9), seed=0, rho_mlp=2.0),
        record("random components", items(0.53, 0.9), seed=1, rho_mlp=2.0),
        record("random components", items(0.1, 0.9), seed=0, rho_mlp=0.0),
    ]
    found = compare(test, Setting("edit", {"rho_mlp": 2.0}), higher_is_better=True, validation=validation)
    assert found.edit.attribute.value == pytest.approx(0.7)
    assert found.at_utility.value == pytest.approx(0.7 - 0.525)
    assert found.tried == 3
    assert found.steering.setting.strength == 0.5
    assert found.selected.value == pytest.approx(0.15)
    assert [each.behind.value for each in found.controls] == pytest.approx([0.19, 0.17]), "of this edit, and of no other"
    assert not found.on_pareto_front
    assert len(found.frontier) == 2
