import numpy as np
import pytest

from s2e_lens.errors import ShapeError
from s2e_lens.visualizers import Point, TradeOff, draw_tradeoff, tradeoff_info
from s2e_lens.visualizers.labels import SIDES, label_box, place_labels, to_pixels
from s2e_lens.visualizers.tradeoff import convex_hull
from s2e_lens.visualizers.tradeoff_plot import CONTROL_SYMBOLS, control_symbols
from tests.figures import titles, trace


def point(strength: float | None, attribute: float, utility: float, name: str | None = None, **interval: float) -> Point:
    ends = (interval.get("low"), interval.get("high"))
    return Point(name or f"at {strength}", strength, attribute, *ends, utility, interval.get("left"), interval.get("right"), name)


BASE, EDIT = point(0.0, 0.3, 0.8, "unedited"), point(None, 0.8, 0.75, "edit", low=0.7, high=0.9, left=0.7, right=0.77)
STEERING = [point(4.0, 0.9, 0.3), point(-1.0, 0.2, 0.78), point(1.0, 0.5, 0.7, low=0.4, high=0.55, left=0.65, right=0.72)]


def tradeoff(steering=STEERING, base=BASE, edit=EDIT, **settings) -> TradeOff:
    return tradeoff_info(base, edit, steering, attribute="refusal", utility="accuracy", **settings)


def inside(where: tuple[float, float], piece: np.ndarray) -> bool:
    """Whether a place lies in a polygon, by the crossing number: an oracle that knows nothing of hulls."""
    x, y = where
    crossings = 0
    for (ax, ay), (bx, by) in zip(piece, np.roll(piece, -1, axis=0), strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            crossings += 1
    return crossings % 2 == 1


def test_steering_points_are_joined_in_the_order_of_strength_through_the_base():
    info = tradeoff()
    assert [each.strength for each in info.steering] == [-1.0, 1.0, 4.0]
    assert [each.strength for each in info.path] == [-1.0, 0.0, 1.0, 4.0]


def test_a_base_without_strength_is_left_out_of_the_line():
    info = tradeoff(base=point(None, 0.3, 0.8))
    assert info.path == info.steering


def test_marks_show_attribute_against_utility_and_edits_have_bars():
    figure = draw_tradeoff(tradeoff())
    steering, edit, base = (trace(figure, name) for name in ("steering (95%)", "edit", "unedited"))
    np.testing.assert_allclose(steering.x, [0.78, 0.7, 0.3], rtol=1e-6)
    np.testing.assert_allclose(steering.y, [0.2, 0.5, 0.9], rtol=1e-6)
    assert (edit.x[0], edit.y[0]) == (np.float32(0.75), np.float32(0.8))
    np.testing.assert_allclose([edit.error_y.array[0], edit.error_y.arrayminus[0]], [0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose([edit.error_x.array[0], edit.error_x.arrayminus[0]], [0.02, 0.05], atol=1e-6)
    assert not base.error_y.visible
    assert edit.marker.symbol == "star"


def test_a_click_gives_the_key_of_the_setting():
    figure = draw_tradeoff(tradeoff(edits=[point(None, 0.4, 0.79, "another")]))
    assert trace(figure, "other edits").customdata[0][1] == "another"
    assert trace(figure, "edit").customdata[0][1] == "edit"


def test_the_band_holds_each_interval_and_what_lies_between_neighbours():
    info = tradeoff()
    held = [(0.7, 0.41), (0.7, 0.54), (0.66, 0.5), (0.715, 0.5), (0.75, 0.42)]
    assert all(any(inside(where, piece) for piece in info.band) for where in held)
    # Negative control: outside the interval, and where no point has one.
    free = [(0.7, 0.38), (0.7, 0.58), (0.64, 0.45), (0.79, 0.25)]
    assert not any(inside(where, piece) for piece in info.band for where in free)


def test_without_intervals_there_is_no_band():
    info = tradeoff([point(1.0, 0.5, 0.7), point(2.0, 0.6, 0.6)])
    assert info.band == []
    assert not [each for each in draw_tradeoff(info).data if each.fill == "toself"]


def test_the_pieces_of_the_band_turn_one_way_so_that_overlaps_leave_no_hole():
    curve = [point(float(i), a, u, low=a - 0.1, high=a + 0.1, left=u - 0.02, right=u + 0.02) for i, a, u in FOLDED]
    for piece in tradeoff(curve).band:
        following = np.roll(piece, -1, axis=0)
        assert (piece[:, 0] * following[:, 1] - following[:, 0] * piece[:, 1]).sum() > 0


FOLDED = [(1, 0.5, 0.7), (2, 0.6, 0.75), (3, 0.7, 0.7), (4, 0.75, 0.5)]


def test_on_a_logarithmic_axis_the_band_ends_at_the_interval_too():
    curve = [point(1.0, 0.5, 20.0, low=0.4, high=0.6, left=10.0, right=80.0)]
    info = tradeoff(curve, point(None, 0.3, 15.0), point(None, 0.6, 16.0), log_utility=True, utility_higher_is_better=False)
    (piece,) = info.band
    np.testing.assert_allclose([piece[:, 0].min(), piece[:, 0].max()], [10, 80], rtol=1e-6)
    np.testing.assert_allclose([piece[:, 1].min(), piece[:, 1].max()], [0.4, 0.6], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_hull_holds_all_points_and_turns_left_at_each_corner(seed):
    points = np.random.default_rng(seed).normal(size=(40, 2))
    hull = convex_hull(points)
    a, b, c = hull, np.roll(hull, -1, axis=0), np.roll(hull, -2, axis=0)
    assert all(turns(*each) > 0 for each in zip(a, b, c, strict=True))
    for one, other in zip(a, b, strict=True):
        assert all(turns(one, other, each) >= -1e-9 for each in points)


def turns(a, b, c) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def test_the_pareto_set_agrees_with_comparing_all_pairs():
    edits = [point(None, a, u, f"edit {a}") for a, u in [(0.6, 0.79), (0.55, 0.7), (0.85, 0.5), (0.2, 0.6)]]
    controls = [point(None, 0.99, 0.99, "system prompt")]
    for higher in (True, False):
        info = tradeoff(edits=edits, controls=controls, attribute_higher_is_better=higher)
        sign = 1 if higher else -1
        offers = [BASE, EDIT, *STEERING, *edits]
        beaten = [
            any(
                sign * b.attribute >= sign * a.attribute
                and b.utility >= a.utility
                and (b.attribute, b.utility) != (a.attribute, a.utility)
                for b in offers
            )
            for a in offers
        ]
        assert set(info.pareto) == {each for each, out in zip(offers, beaten, strict=True) if not out}
        assert [each.utility for each in info.pareto] == sorted(each.utility for each in info.pareto)
    stair = trace(draw_tradeoff(info), "Pareto set")
    np.testing.assert_allclose(stair.x, [each.utility for each in info.pareto], rtol=1e-6)


@pytest.mark.parametrize("attribute_higher", [True, False])
@pytest.mark.parametrize("utility_higher", [True, False])
def test_the_stair_runs_through_what_the_set_reaches_and_beyond_no_offer(attribute_higher, utility_higher):
    turn, mirror = (1 if attribute_higher else -1), (1 if utility_higher else -1)
    offers = [(0.2, 0.8), (0.5, 0.6), (0.8, 0.3)]
    first, second, third = (point(float(i), 1 + turn * a, 2 + mirror * u) for i, (a, u) in enumerate(offers))
    info = tradeoff(
        [second],
        first,
        third,
        attribute_higher_is_better=attribute_higher,
        utility_higher_is_better=utility_higher,
    )
    stair = trace(draw_tradeoff(info), "Pareto set")
    assert len(stair.x) == 3
    for (x, y), (next_x, next_y) in zip(
        zip(stair.x, stair.y, strict=True), zip(stair.x[1:], stair.y[1:], strict=True), strict=False
    ):
        corner = (x, next_y) if stair.line.shape == "vh" else (next_x, y)
        # Each corner is dominated by the points it joins: no better in either number.
        for utility, attribute in ((x, y), (next_x, next_y)):
            assert mirror * corner[0] <= mirror * utility
            assert turn * corner[1] <= turn * attribute


@pytest.mark.parametrize("higher", [True, False])
def test_in_view_are_settings_that_cost_little_and_any_that_improve(higher):
    sign = 1 if higher else -1
    cheap, dear, better = (point(float(i), 0.5, 10.0 + sign * u) for i, u in enumerate((-2, -9, 9), start=1))
    info = tradeoff([cheap, dear, better], point(0.0, 0.3, 10.0), point(None, 0.6, 10.0 - sign), utility_higher_is_better=higher)
    assert set(info.steering) & set(info.shown) == {cheap, better}


def test_a_kind_of_control_has_one_symbol_whatever_else_is_there():
    first = control_symbols(["ablation", "my own", "random direction"])
    second = control_symbols(["random direction", "system prompt", "my own"])
    assert {name: first[name] for name in first.keys() & second.keys()} == {
        name: second[name] for name in first.keys() & second.keys()
    }
    assert len(set(CONTROL_SYMBOLS.values())) == len(CONTROL_SYMBOLS)
    assert len(set(first.values())) == 3
    controls = [point(None, 0.3, 0.7, name) for name in ("system prompt", "random components, signs too", "system prompt")]
    figure = draw_tradeoff(tradeoff(controls=controls))
    assert trace(figure, "system prompt").marker.symbol == CONTROL_SYMBOLS["system prompt"]
    assert len(trace(figure, "system prompt").x) == 2
    assert trace(figure, "random<br>components,<br>signs too").marker.symbol == CONTROL_SYMBOLS["random components, signs too"]


def test_axis_titles_say_which_direction_is_better():
    figure = draw_tradeoff(tradeoff(attribute_higher_is_better=False))
    assert {"accuracy (higher is better →)", "refusal (← lower is better)"} <= titles(figure)


def test_a_single_steering_point_at_the_base_can_be_drawn():
    figure = draw_tradeoff(tradeoff([BASE], edit=BASE))
    low, high = figure.layout.xaxis.range
    assert low < BASE.utility < high


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ([], "at least one strength"),
        ([point(1.0, float("nan"), 0.5)], "NaN or infinity"),
        ([point(1.0, 0.5, float("inf"))], "NaN or infinity"),
        ([point(1.0, 0.5, 0.5, low=0.6, high=0.7)], "outside its interval"),
        ([point(1.0, 0.5, 0.5, left=0.6, right=0.7)], "outside its interval"),
    ],
)
def test_a_tradeoff_that_cannot_be_drawn_is_refused(steering, message):
    with pytest.raises(ShapeError, match=message):
        tradeoff(steering)


def test_an_interval_that_a_logarithmic_axis_cannot_show_is_refused():
    with pytest.raises(ShapeError, match="logarithmic axis needs positive"):
        tradeoff([point(1.0, 0.5, 2.0, left=-1.0, right=3.0)], log_utility=True)


# labels


def boxes(points, texts, sides):
    return [label_box(points[i], text, side) for i, (text, side) in enumerate(zip(texts, sides, strict=True)) if side]


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("spread", [4.0, 60.0, 400.0])
def test_labels_hide_neither_each_other_nor_a_mark_and_stay_inside(spread):
    points = np.random.default_rng(0).uniform(0, spread, size=(30, 2)) + 20
    texts = [f"+{i / 8:g}" for i in range(30)]
    size = (spread + 40, spread + 40)
    sides = place_labels(points, texts, size=size, marks=points)
    placed = boxes(points, texts, sides)
    assert not any(overlap(one, other) for i, one in enumerate(placed) for other in placed[:i])
    assert not any(overlap(box, (x - 4, y - 4, x + 4, y + 4)) for box in placed for x, y in points)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1] for box in placed)
    assert (len(placed) == 30) == (spread == 400.0)
    # Negative control: were each text put to the right of its mark, some would collide.
    naive = boxes(points, texts, ["middle right"] * 30)
    assert spread == 400.0 or any(overlap(one, other) for i, one in enumerate(naive) for other in naive[:i])


def test_a_label_leaves_a_line_free_where_it_can():
    at = np.array([[100.0, 100.0]])
    line = np.stack([np.linspace(100, 200, 50), np.full(50, 100.0)], axis=1)
    (free,) = place_labels(at, ["+1"], size=(200.0, 200.0), marks=at, line=line)
    (default,) = place_labels(at, ["+1"], size=(200.0, 200.0), marks=at)
    assert default == "middle right"
    assert free is not None
    assert SIDES[free][0] <= 0 or SIDES[free][1] != 0


def test_pixels_are_shares_of_the_range():
    assert to_pixels(np.array([1.0]), np.array([5.0]), (0.0, 4.0), (5.0, 6.0), (200.0, 100.0)).tolist() == [[50.0, 0.0]]


def test_strengths_of_a_crowded_curve_are_written_only_where_there_is_room():
    crowded = [point(i / 10, 0.5 + i / 1000, 0.7 - i / 1000) for i in range(1, 20)] + [point(9.0, 0.9, 0.6)]
    info = tradeoff(crowded)
    steering = trace(draw_tradeoff(info), "steering (95%)")
    written = [text for text in steering.text if text]
    assert "+9" in written
    assert len(written) < len(crowded) / 2
    assert "+0.3" in str(steering.customdata)  # what has no room is in the hover
