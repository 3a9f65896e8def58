import base64
import json
import re

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from s2e_lens.errors import ShapeError
from s2e_lens.evaluation.measure import Items
from s2e_lens.readout import LogitEffects, LogitLens, NextTokens, TokenLens, TokenValue
from s2e_lens.results import Attribution, Component
from s2e_lens.visualizers import (
    HOUSE,
    Point,
    changes_info,
    dose_info,
    draw_changes,
    draw_direction_cosines,
    draw_direction_norms,
    draw_dose,
    draw_edit_distribution,
    draw_head_heatmap,
    draw_layer_bins,
    draw_logit_effects,
    draw_logit_lens,
    draw_neuron_ranking,
    draw_next_tokens,
    draw_ranked_curves,
    draw_tradeoff,
    edit_distribution_info,
    geometry_info,
    head_heatmap_info,
    layer_bins_info,
    logit_effects_info,
    logit_lens_info,
    neuron_ranking_info,
    next_tokens_info,
    plotly_js,
    ranked_curves_info,
    to_html_fragment,
    tradeoff_info,
    write_html,
)
from s2e_lens.visualizers.style import as_matrix
from tests.figures import directions, edit, means, provenance


def heads(layers: int = 3, count: int = 4) -> torch.Tensor:
    return torch.randn(layers, count, generator=torch.Generator().manual_seed(0))


def heatmap_traces(figure: go.Figure) -> tuple[go.Heatmap, list[go.Scatter]]:
    heatmap, *marks = figure.data
    return heatmap, marks


def point(strength: float | None, attribute: float, utility: float, **interval: float) -> Point:
    ends = (interval.get("low"), interval.get("high"))
    return Point(f"at {strength}", strength, attribute, *ends, utility)


BASE, EDIT = point(0.0, 0.3, 0.8), point(None, 0.8, 0.75, low=0.7, high=0.9)
STEERING = [point(4.0, 0.9, 0.3), point(-1.0, 0.2, 0.78), point(1.0, 0.5, 0.7, low=0.4, high=0.55)]


def tradeoff(**settings: bool):
    return tradeoff_info(BASE, EDIT, STEERING, attribute="refusal", utility="accuracy", **settings)


# heads


def test_limits_are_symmetric_around_zero():
    info = head_heatmap_info(torch.tensor([[0.5, -3.0], [1.0, 2.0]]), name="score")
    heatmap, _ = heatmap_traces(draw_head_heatmap(info))
    assert info.limit == 3.0
    assert (heatmap.zmin, heatmap.zmax) == (-3.0, 3.0)


def test_scores_that_are_all_zero_still_have_limits():
    assert head_heatmap_info(torch.zeros(2, 2), name="score").limit == 1.0


def test_positive_is_blue_and_negative_is_red():
    heatmap, _ = heatmap_traces(draw_head_heatmap(head_heatmap_info(heads(), name="score")))
    (_, lowest), (_, highest) = heatmap.colorscale[0], heatmap.colorscale[-1]
    for colour, strongest in ((lowest, 0), (highest, 2)):
        assert int(np.argmax([int(part) for part in re.findall(r"\d+", colour)])) == strongest


def test_layer_0_is_at_the_top():
    low, high = draw_head_heatmap(head_heatmap_info(heads(3, 4), name="score")).layout.yaxis.range
    assert (low, high) == (2.5, -0.5)


def test_an_edited_head_is_marked_at_its_own_place():
    lam = torch.zeros(3, 4)
    lam[2, 1], lam[0, 3] = -1.2, 0.4
    info = head_heatmap_info(heads(3, 4), edited=lam, name="score")
    _, (marks,) = heatmap_traces(draw_head_heatmap(info))
    assert info.marks == [(0, 3), (2, 1)]
    assert list(zip(marks.y, marks.x, strict=True)) == [(0, 3), (2, 1)]
    assert marks.name == "edited: 2 of 12"
    assert marks.showlegend
    # Negative control: the marks of the transposed places are others.
    assert head_heatmap_info(heads(4, 3), edited=lam.T, name="score").marks != info.marks


def test_in_small_cells_an_outline_leaves_the_colour_to_be_seen():
    lam = torch.zeros(80, 64)
    lam[70, 5], lam[0, 63] = 1.0, -1.0
    heatmap, (marks,) = heatmap_traces(draw_head_heatmap(head_heatmap_info(heads(80, 64), edited=lam, name="score")))
    assert (marks.mode, marks.line.width, marks.fill) == ("lines", heatmap.xgap, None)
    corners = np.stack([marks.x, marks.y], axis=1).reshape(2, 6, 2)
    assert np.isnan(corners[:, 5]).all()
    for outline, (layer, head) in zip(corners[:, :5], [(0, 63), (70, 5)], strict=True):
        np.testing.assert_array_equal(np.abs(outline - [head, layer]), 0.5)
        assert len(np.unique(outline, axis=0)) == 4
        np.testing.assert_array_equal(outline[0], outline[-1])


@pytest.mark.parametrize("shape", [(1, 1), (6, 8), (12, 12), (32, 8), (26, 24)])
def test_a_disc_takes_at_most_a_third_of_its_cell_at_the_narrowest(shape):
    figure = draw_head_heatmap(head_heatmap_info(heads(*shape), edited=heads(*shape), name="score"))
    _, (marks,) = heatmap_traces(figure)
    width, margin = 320 - figure.layout.margin.l - figure.layout.margin.r, figure.layout.margin
    height = figure.layout.height - margin.t - margin.b
    if marks.mode == "markers":
        assert marks.marker.size <= min(width / shape[1], (height + 1) / shape[0]) / 3
    assert (marks.mode == "markers") == (shape in [(1, 1), (6, 8), (12, 12)])


def test_the_heatmap_fills_its_figure_at_every_width():
    figure = draw_head_heatmap(head_heatmap_info(heads(80, 64), name="score"))
    assert figure.layout.yaxis.scaleanchor is None
    assert figure.layout.xaxis.constrain is None
    assert (figure.layout.height - figure.layout.margin.t - figure.layout.margin.b) / 80 == pytest.approx(7)


@pytest.mark.parametrize("edited", [None, torch.zeros(3, 4)])
def test_without_an_edit_nothing_is_marked(edited):
    info = head_heatmap_info(heads(3, 4), edited=edited, name="score")
    _, marks = heatmap_traces(draw_head_heatmap(info))
    assert info.marks == []
    assert marks == []


def test_heads_can_be_marked_without_their_lambda():
    edited = torch.zeros(3, 4, dtype=torch.bool)
    edited[1, 2] = True
    info = head_heatmap_info(heads(3, 4), edited=edited, name="score")
    heatmap, _ = heatmap_traces(draw_head_heatmap(info))
    assert (info.marks, info.lam) == ([(1, 2)], None)
    assert "λ" not in heatmap.hovertemplate


def test_the_hover_tells_label_score_and_lambda_of_the_same_head():
    scores, lam = heads(3, 4), heads(3, 4) * 2
    heatmap, _ = heatmap_traces(draw_head_heatmap(head_heatmap_info(scores, edited=lam, name="score")))
    assert heatmap.text[2][1] == "L2H1"
    assert heatmap.z[2][1] == scores[2, 1].item()
    assert heatmap.customdata[2][1] == lam[2, 1].item()
    assert heatmap.hovertemplate == "%{text}, score %{z:+.3~g}, λ %{customdata:+.3~g}<extra></extra>"


def test_the_colour_bar_has_the_name_of_the_score_as_plain_text():
    heatmap, _ = heatmap_traces(draw_head_heatmap(head_heatmap_info(heads(), name="<b>ΔU")))
    assert heatmap.colorbar.title.text == "&lt;b&gt;ΔU"


@pytest.mark.parametrize("shape", [(3, 4), (32, 32), (1, 1), (26, 4), (2, 32), (80, 64)])
def test_heads_of_many_shapes_can_be_drawn(shape):
    figure = draw_head_heatmap(head_heatmap_info(heads(*shape), edited=heads(*shape).clamp_min(1) - 1, name="score"))
    heatmap, _ = heatmap_traces(figure)
    assert heatmap.z.shape == shape
    assert heatmap.z.dtype == np.float32
    assert {each.text for each in figure.layout.annotations} == {"layer", "head"}
    assert 150 < figure.layout.height < 800


def test_scores_in_half_precision_can_be_drawn():
    assert head_heatmap_info(heads().bfloat16(), name="score").scores.dtype == np.float32


@pytest.mark.parametrize("scores", [torch.zeros(0, 4), torch.zeros(3, 0), torch.full((3, 4), torch.nan)])
def test_heads_that_are_missing_or_not_finite_are_refused(scores):
    with pytest.raises(ShapeError, match="needed"):
        head_heatmap_info(scores, name="score")


def test_a_refusal_names_both_shapes():
    with pytest.raises(ShapeError, match=re.escape("λ came with shape [4, 3]; [3, 4] is needed")):
        as_matrix(torch.zeros(4, 3), what="λ", like=(3, 4))
    with pytest.raises(ShapeError, match=re.escape("came with shape [4]; a tensor [layer, component]")):
        as_matrix(torch.zeros(4), what="λ")


# neurons


def test_neurons_are_ranked_by_magnitude_with_ties_in_order():
    scores = torch.tensor([[0.5, -3.0, 0.0], [2.0, -2.0, 1.0]])
    lam = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.7, 0.0]])
    info = neuron_ranking_info(scores, k=4, lam=lam, name="score")
    assert info.labels == ("L0N1", "L1N0", "L1N1", "L1N2")
    assert info.scores.tolist() == [-3.0, 2.0, -2.0, 1.0]
    assert info.edited == ["L0N1", "L1N1"]
    assert info.total == 6


def test_the_ranking_agrees_with_sorting_all_neurons():
    scores = heads(5, 172)
    info = neuron_ranking_info(scores, k=20, name="score")
    expected = sorted((-abs(scores[i, j].item()), f"L{i}N{j}") for i in range(5) for j in range(172))[:20]
    assert list(info.labels) == [label for _, label in expected]


def test_a_ranking_longer_than_the_model_holds_every_neuron():
    assert len(neuron_ranking_info(heads(2, 3), k=20, name="score").labels) == 6


def test_the_largest_bar_is_on_top_and_colours_follow_the_sign():
    figure = draw_neuron_ranking(neuron_ranking_info(torch.tensor([[1.0, -3.0]]), name="score"))
    (bars,) = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["L0N1", "L0N0"]
    assert list(bars.y) == [0, 1]
    assert list(figure.layout.yaxis.range) == [1.5, -0.5]
    assert list(bars.marker.color) == ["rgb(178,24,43)", "rgb(33,102,172)"]


def test_an_edited_neuron_is_marked_at_its_own_bar():
    figure = draw_neuron_ranking(
        neuron_ranking_info(torch.tensor([[1.0, -3.0, 2.0]]), lam=torch.tensor([[0.0, 0.0, 0.5]]), name="score")
    )
    _, marks = figure.data
    assert (list(marks.x), list(marks.y)) == ([2.0], [1.0])


def test_a_mixture_of_experts_gives_an_empty_figure_that_says_why():
    info = neuron_ranking_info(torch.zeros(5, 0), lam=torch.zeros(5, 0), name="score")
    figure = draw_neuron_ranking(info)
    assert (info.labels, info.total) == ((), 0)
    assert not figure.data
    assert "mixtures of experts" in figure.layout.annotations[0].text


def test_a_ranking_of_no_neurons_is_refused():
    with pytest.raises(ShapeError, match="k must be 1 or more"):
        neuron_ranking_info(heads(), k=0, name="score")
    with pytest.raises(ShapeError, match="at least one layer"):
        neuron_ranking_info(torch.zeros(0, 3), name="score")


# style and pages

GEOMETRY = geometry_info({"one": directions(0), "two": directions(7)})
DOSE = dose_info(edit(), means(), Attribution(heads(3, 4), heads(3, 20), "cosine", provenance()))
ITEMS = [
    Items(np.array(values), {"sort": np.array(values)}, {}, np.ones(3), np.arange(3.0) * kl, np.ones(3))
    for values, kl in (([0.0, 1.0, 1.0], 0), ([1.0, 1.0, 0.0], 1))
]
CHANGES = changes_info(ITEMS[0], ITEMS[1], attribute="refusal")


def figures() -> dict[str, go.Figure]:
    return {
        "heads": draw_head_heatmap(head_heatmap_info(heads(), edited=heads(), name="score")),
        "neurons": draw_neuron_ranking(neuron_ranking_info(heads(), lam=heads(), name="score")),
        "no neurons": draw_neuron_ranking(neuron_ranking_info(torch.zeros(2, 0), name="score")),
        "trade-off": draw_tradeoff(tradeoff()),
        "curves": draw_ranked_curves(ranked_curves_info(heads(), lam=heads(), name="score")),
        "bins": draw_layer_bins(layer_bins_info(heads(), lam=heads(), name="score")),
        "distribution of heads": draw_edit_distribution(edit_distribution_info({"one": edit(), "two": edit()})),
        "distribution of neurons": draw_edit_distribution(edit_distribution_info({"one": edit()}, site="mlp")),
        "norms": draw_direction_norms(GEOMETRY),
        "layers": draw_direction_cosines(GEOMETRY, between="layers"),
        "sites": draw_direction_cosines(GEOMETRY, between="sites"),
        "behaviors": draw_direction_cosines(GEOMETRY, between="behaviors"),
        "dose": draw_dose(DOSE),
        "changes": draw_changes(CHANGES),
    }


@pytest.mark.parametrize("name", figures())
def test_every_figure_has_the_house_template_and_no_other(name):
    assert figures()[name].layout.template == HOUSE


@pytest.mark.parametrize("name", figures())
def test_every_figure_leaves_its_width_to_the_page_and_names_its_axes(name):
    figure = figures()[name]
    assert figure.layout.width is None
    assert figure.layout.height
    if figure.data:
        written = {each.text for each in figure.layout.annotations}
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            assert written or axis.title.text


def test_the_default_template_of_plotly_stays_as_it_is():
    assert plotly.io.templates.default == "plotly"
    assert go.Figure().layout.template != HOUSE


@pytest.mark.parametrize("name", figures())
def test_a_fragment_loads_nothing_and_holds_no_plotly_source(name):
    fragment = to_html_fragment(figures()[name])
    assert "<script src" not in fragment
    assert not re.search(r"https?:|src=|href=", fragment)
    assert fragment.startswith("<div")
    assert len(fragment) < 30_000 < len(plotly_js())
    assert '"responsive": true' in fragment
    assert '"displaylogo": false' in fragment


def test_a_fragment_with_a_fixed_id_is_the_same_each_time():
    one, other = (to_html_fragment(draw_tradeoff(tradeoff()), div_id="tradeoff") for _ in range(2))
    assert one == other
    assert 'id="tradeoff"' in one


def test_names_from_outside_cannot_add_markup_to_a_page():
    evil = "</script><script>alert(1)</script><a href='x'>"
    figure = draw_tradeoff(tradeoff_info(Point(evil, 0.0, 0.3, None, None, 0.8), EDIT, STEERING, attribute=evil, utility="u"))
    assert "alert(1)</" not in to_html_fragment(figure)
    names = [each.name.replace("<br>", "") for each in figure.data if each.name]
    assert any("alert(1)" in name for name in names)
    assert not any("<" in name for name in names)


def test_scores_travel_as_float32():
    heatmap = json.loads(draw_head_heatmap(head_heatmap_info(heads(), name="score")).to_json())["data"][0]
    assert heatmap["z"]["dtype"] == "f4"
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(heatmap["z"]["bdata"]), "<f4"), heads().numpy().ravel())


def test_a_page_is_whole_and_offline(tmp_path):
    path = tmp_path / "new" / "page.html"
    write_html(draw_tradeoff(tradeoff()), path, title="a < b")
    shared = tmp_path / "shared.html"
    write_html(draw_tradeoff(tradeoff()), shared, title="a < b", plotly_file="plotly.min.js")
    assert '<script src="plotly.min.js"></script>' in shared.read_text(encoding="utf-8")
    assert shared.stat().st_size < 50_000
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert plotly_js() in page
    assert "<title>a &lt; b</title>" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page.replace(plotly_js(), ""))
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


EVIL = "<img src=x onerror=1>"


def evil_figures() -> dict[str, go.Figure]:
    """Every figure with markup in each text that comes from outside."""
    tasks = {EVIL: np.array([1.0, 0.0])}
    items = Items(np.array([0.0, 1.0]), tasks, {EVIL: np.array([0.5, 0.2])}, np.ones(2), np.zeros(2), np.ones(2))
    other = Items(np.array([1.0, 1.0]), tasks, {EVIL: np.array([0.1, 0.9])}, np.ones(2), np.ones(2), np.ones(2))
    found = changes_info(items, other, attribute=EVIL, names=(EVIL, EVIL), prompts=[EVIL] * 2, passages=[EVIL] * 2)
    marks = [Point(EVIL, strength, 0.3, 0.2, 0.4, 0.8, 0.7, 0.9) for strength in (0.0, None, 1.0)]
    trade = tradeoff_info(marks[0], marks[1], marks[2:], attribute=EVIL, utility=EVIL, edits=marks[1:2], controls=marks[1:2])
    geometry = geometry_info({EVIL: directions(0), f"{EVIL}2": directions(5)})
    lam = heads()
    doses = dose_info(edit(), means(), Attribution(heads(3, 4), heads(3, 20), EVIL, provenance()))
    value = TokenValue(0, EVIL, 1.0)
    effects = LogitEffects((Component("attn", 0, 1, 1.0),), tuple(range(9)), (EVIL,) * 9, torch.ones(1, 9))
    few = LogitEffects(effects.components, (0,), (EVIL,), torch.ones(1, 1))
    return {
        "heads": draw_head_heatmap(head_heatmap_info(lam, edited=lam, name=EVIL)),
        "heads by lambda": draw_head_heatmap(head_heatmap_info(lam, edited=lam, name=EVIL, colour="lam")),
        "neurons": draw_neuron_ranking(neuron_ranking_info(lam, lam=lam, name=EVIL)),
        "trade-off": draw_tradeoff(trade),
        "curves": draw_ranked_curves(ranked_curves_info(lam, lam=lam, name=EVIL)),
        "bins": draw_layer_bins(layer_bins_info(lam, lam=lam, name=EVIL)),
        "distribution": draw_edit_distribution(edit_distribution_info({EVIL: edit(), f"{EVIL}2": edit()})),
        "one distribution": draw_edit_distribution(edit_distribution_info({EVIL: edit()}, site="mlp")),
        "norms": draw_direction_norms(geometry),
        "layers": draw_direction_cosines(geometry, between="layers"),
        "sites": draw_direction_cosines(geometry, between="sites"),
        "behaviors": draw_direction_cosines(geometry, between="behaviors"),
        "dose": draw_dose(doses),
        "changes": draw_changes(found),
        "lens": draw_logit_lens(logit_lens_info(LogitLens({("mlp", 0): TokenLens((value,), (value,))}, 1, True), name=EVIL)),
        "effects": draw_logit_effects(logit_effects_info(effects, name=EVIL)),
        "effects on one token": draw_logit_effects(logit_effects_info(few, name=EVIL)),
        "next tokens": draw_next_tokens(next_tokens_info({EVIL: NextTokens((value,), torch.tensor([1.0]))}, name=EVIL)),
    }


def texts(part: object, key: str = "") -> list[str]:
    """All texts of a figure that plotly reads as HTML. Names that only tell traces apart are none of them."""
    if isinstance(part, dict):
        shown = {k: v for k, v in part.items() if k not in {"meta", "legendgroup", "template", "name"}}
        if part.get("showlegend") or "extra>" not in str(part.get("hovertemplate", "<extra>")):
            shown["name"] = part.get("name")
        return [text for k, v in shown.items() for text in texts(v, k)]
    if isinstance(part, list | tuple | np.ndarray):
        return [text for each in part for text in texts(each, key)]
    return [part] if isinstance(part, str) else []


@pytest.mark.parametrize("name", evil_figures())
def test_no_text_from_outside_adds_markup_to_any_figure(name):
    found = texts(evil_figures()[name].to_dict())
    assert any("onerror" in text.replace("<br>", "") for text in found), "the text itself is shown"
    for text in found:
        assert not re.search(r"<(?!br>|extra>|/extra>)", text), text
