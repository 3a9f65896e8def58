import dataclasses
import math

import numpy as np
import pytest
import torch

from s2e_lens.errors import MismatchError, ShapeError
from s2e_lens.results import SITES, Attribution
from s2e_lens.visualizers import (
    HOUSE,
    dose_info,
    draw_direction_cosines,
    draw_direction_norms,
    draw_dose,
    draw_edit_distribution,
    edit_distribution_info,
    geometry_info,
)
from s2e_lens.visualizers.dose import MOST, signed_root
from tests.figures import colour, directions, edit, means, provenance, random, site_edit, titles, trace

# distribution


def test_heads_keep_their_own_index():
    one = edit()
    info = edit_distribution_info({"toy": one})
    (heatmap,) = draw_edit_distribution(info).data
    np.testing.assert_array_equal(heatmap.z, one.attn[0].lam.numpy())
    assert heatmap.text[2][1] == "L2H1"
    # Negative control: sorted within the layer, as in the paper, the picture is another.
    assert not np.array_equal(heatmap.z, np.sort(one.attn[0].lam.numpy(), axis=1))


def test_several_models_of_different_shapes_share_one_symmetric_scale():
    edits = {"small": edit(), "large": 5.0 * edit(seed=3, layers=12, heads=16)}
    info = edit_distribution_info(edits)
    figure = draw_edit_distribution(info)
    limit = max(float(each.attn[0].lam.abs().max()) for each in edits.values())
    assert info.limit == limit
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-limit, limit)
    assert colour(figure.layout.coloraxis.colorscale[-1][1], 2)
    assert [each.z.shape for each in figure.data] == [(3, 4), (12, 16)]
    assert list(figure.layout.yaxis.range) == [2.5, -0.5]
    assert list(figure.layout.yaxis2.range) == [11.5, -0.5]
    assert {"small<br>5 edited", "head", "layer"} <= titles(figure) or {"head", "layer"} <= titles(figure)


def test_each_panel_can_have_its_own_scale_and_still_tells_its_lambda():
    edits = {"small": edit(), "large": 5.0 * edit(seed=3)}
    figure = draw_edit_distribution(edit_distribution_info(edits), scale="own")
    for each, heatmap in zip(edits.values(), figure.data, strict=True):
        lam = each.attn[0].lam.numpy()
        assert np.abs(heatmap.z).max() == pytest.approx(1.0)
        np.testing.assert_allclose(heatmap.z * np.abs(lam).max(), lam, rtol=1e-5)
        np.testing.assert_array_equal(heatmap.customdata, lam)
    assert figure.layout.coloraxis.cmax == 1.0


def test_panels_say_how_many_components_are_edited():
    one = edit()
    for site in SITES:
        figure = draw_edit_distribution(edit_distribution_info({"toy": one}, site=site))
        assert f"toy<br>{one.count(site)} edited" in titles(figure)


def test_a_sum_of_edits_gives_a_panel_for_each_term():
    info = edit_distribution_info({"both": edit() + edit(seed=1)})
    assert [panel.name for panel in info.panels] == ["both, term 1", "both, term 2"]


def test_the_histogram_counts_every_edited_neuron_once():
    one = edit(neurons=500)
    info = edit_distribution_info({"toy": one}, site="mlp")
    (panel,) = info.panels
    edges, counts = info.histogram(panel, info.limit)
    lam = one.mlp[0].lam
    assert counts.sum() == one.count("mlp")
    for layer in range(3):
        for b in range(len(edges) - 1):
            last = b == len(edges) - 2
            inside = [x for x in lam[layer].double().tolist() if x != 0 and edges[b] <= x and (x < edges[b + 1] or last)]
            assert counts[layer, b] == len(inside)


def test_neurons_are_counted_in_colour_and_the_largest_of_each_layer_is_named():
    one = edit(neurons=500)
    cells, marks = draw_edit_distribution(edit_distribution_info({"toy": one}, site="mlp")).data
    lam = one.mlp[0].lam
    counted = np.where(np.isfinite(cells.z), 10**cells.z, 0)
    assert counted.sum() == pytest.approx(one.count("mlp"))
    for layer in range(3):
        largest = max(range(500), key=lambda i: abs(lam[layer, i].item()))
        assert marks.x[layer] == lam[layer, largest].item()
        assert marks.text[layer].startswith(f"L{layer}N{largest}, λ ")


def test_four_panels_stand_two_by_two():
    figure = draw_edit_distribution(edit_distribution_info({f"model {i}": edit(seed=i) for i in range(4)}))
    assert figure.layout.xaxis3.domain == figure.layout.xaxis.domain
    assert figure.layout.yaxis3.domain[1] < figure.layout.yaxis.domain[0]


def test_a_distribution_of_nothing_is_refused():
    without = dataclasses.replace(edit(), attn=())
    with pytest.raises(ShapeError, match="0 edits came"):
        edit_distribution_info({})
    with pytest.raises(ShapeError, match="none of them edits the site 'attn'"):
        edit_distribution_info({"toy": without})
    broken = dataclasses.replace(edit(), attn=(site_edit(torch.full((2, 2), torch.nan), 3),))
    with pytest.raises(ShapeError, match="NaN or infinity"):
        edit_distribution_info({"toy": broken})


@pytest.mark.parametrize("scale", [1.0, 0.07, 0.003, 0.0003])
def test_numbers_of_three_panels_of_neurons_keep_apart_in_a_narrow_figure(scale):
    edits = {f"model {i}": dataclasses.replace(edit(), mlp=(site_edit(torch.full((2, 5), scale * 1.1), 1),)) for i in range(3)}
    layout = draw_edit_distribution(edit_distribution_info(edits, site="mlp")).layout
    width, spans = 320 - layout.margin.l - layout.margin.r, []
    for axis in (layout.xaxis, layout.xaxis2, layout.xaxis3):
        (left, right), (low, high) = axis.domain, axis.range
        for tick in axis.tickvals:
            middle = width * (left + (right - left) * (tick - low) / (high - low))
            shown = f"{tick:.1e}".replace("e-0", "e-") if axis.tickformat == ".1e" else f"{tick:.2g}"
            half = 3.2 * len(shown)  # a digit is 6.4 pixels wide
            spans.append((middle - half, middle + half))
    assert all(one[1] < other[0] for one, other in zip(spans, spans[1:], strict=False))
    assert layout.xaxis.tickangle == 0


# geometry


def two() -> dict:
    return {"one": directions(0), "two": directions(7)}


def test_cosines_and_norms_agree_with_the_vectors():
    given = two()
    info = geometry_info(given)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))

    for b, each in enumerate(given.values()):
        for s, site in enumerate(SITES):
            vectors = each[site].vectors
            np.testing.assert_allclose(info.norms[b, s], vectors.norm(dim=-1), rtol=1e-5)
            np.testing.assert_allclose(info.outputs[b, s], each.means.outputs(site).norm(dim=-1), rtol=1e-5)
            for i in range(3):
                for j in range(3):
                    assert info.between_layers[b, s, i, j] == pytest.approx(cosine(vectors[i], vectors[j]), abs=1e-5)
                other = given["two"][site].vectors[i]
                expected = cosine(given["one"][site].vectors[i], other)
                assert info.between_behaviors[0, s, i] == pytest.approx(expected, abs=1e-5)
        for i in range(3):
            assert info.between_sites[b, i] == pytest.approx(cosine(each["attn"].vectors[i], each["mlp"].vectors[i]), abs=1e-5)


def test_chance_holds_95_of_100_random_cosines():
    units = torch.nn.functional.normalize(random(400, 512), dim=-1)
    cosines = (units @ units.T)[~torch.eye(400, dtype=torch.bool)]
    chance = geometry_info({"one": directions(d_model=512)}).chance
    assert float((cosines.abs() < chance).double().mean()) == pytest.approx(0.95, abs=0.01)


def test_norms_are_lines_by_behaviour_and_site():
    info = geometry_info(two())
    figure = draw_direction_norms(info)
    line = trace(figure, "two, MLP")
    np.testing.assert_allclose(line.y, info.norms[1, 1])
    assert line.line.dash != trace(figure, "two, attention").line.dash
    assert line.line.color == trace(figure, "two, attention").line.color != trace(figure, "one, MLP").line.color
    assert titles(figure) == {"layer", "‖v‖"}
    relative = trace(draw_direction_norms(info, relative=True), "two, MLP")
    np.testing.assert_allclose(relative.y, info.norms[1, 1] / info.outputs[1, 1], rtol=1e-5)


def test_cosines_between_layers_are_heatmaps_from_minus_1_to_1():
    info = geometry_info(two())
    figure = draw_direction_cosines(info, between="layers")
    np.testing.assert_allclose(trace(figure, "two, mlp").z, info.between_layers[1, 1], rtol=1e-6)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    assert list(figure.layout.yaxis4.range) == [2.5, -0.5]
    assert {f"{name}<br>{site}" for name in two() for site in ("attention", "MLP")} | {"layer"} == titles(figure)


@pytest.mark.parametrize("between", ["sites", "behaviors"])
def test_lines_of_cosines_carry_the_numbers_and_the_band_of_chance(between):
    info = geometry_info(two())
    figure = draw_direction_cosines(info, between=between)
    if between == "sites":
        np.testing.assert_allclose(figure.data[1].y, info.between_sites[1], rtol=1e-6)
    else:
        np.testing.assert_allclose(trace(figure, "one · two, MLP").y, info.between_behaviors[0, 1], rtol=1e-6)
    (band,) = figure.layout.shapes
    assert (band.y0, band.y1) == (-info.chance, info.chance)
    low, high = figure.layout.yaxis.range
    assert low <= -info.chance < info.chance <= high


def test_directions_that_do_not_belong_together_are_refused():
    with pytest.raises(ShapeError, match="0 behaviours came"):
        geometry_info({})
    with pytest.raises(ShapeError, match="Directions of one model are needed"):
        geometry_info({"one": directions(), "two": directions(layers=4)})
    with pytest.raises(MismatchError, match="Their cosines mean nothing"):
        geometry_info({"one": directions(), "two": directions(weights="other")})
    with pytest.raises(ShapeError, match="need two of them"):
        draw_direction_cosines(geometry_info({"one": directions()}), between="behaviors")


# dose


def attribution(seed: int = 9, heads: int = 4, neurons: int = 20) -> Attribution:
    return Attribution(random(3, heads, seed=seed), random(3, neurons, seed=seed + 1), "cosine", provenance())


def test_doses_agree_with_a_loop_over_components():
    one, averages, scores = edit(), means(), attribution()
    info = dose_info(one, averages, scores)
    assert [each.site for each in info.sites] == list(SITES)
    for each in info.sites:
        term, x = one[each.site][0], averages.inputs(each.site)
        expected = {}
        for layer in range(3):
            for i in range(term.lam.shape[1]):
                if term.lam[layer, i] != 0:
                    along = sum(a * b for a, b in zip(term.k[layer, i].tolist(), x[layer, i].tolist(), strict=True))
                    expected[layer, i] = float(term.lam[layer, i]) * along
        found = {
            (int(layer), int(i)): dose for layer, i, dose in zip(each.layers, each.indices, each.doses.tolist(), strict=True)
        }
        assert found == pytest.approx(expected, rel=1e-5)
        assert each.sum == pytest.approx(sum(expected.values()), rel=1e-4)
        assert list(np.abs(each.doses)) == sorted(np.abs(each.doses), reverse=True)
        for layer, i, score, lam in zip(each.layers, each.indices, each.scores, each.lam, strict=True):
            assert score == scores[each.site][layer, i].item()
            assert lam == term.lam[layer, i].item()
    # Negative control: k of another component gives other doses.
    flipped = dataclasses.replace(one, attn=(dataclasses.replace(one.attn[0], k=one.attn[0].k.flip(1)),))
    assert not np.allclose(sorted(dose_info(flipped, averages, scores).sites[0].doses), sorted(info.sites[0].doses))


@pytest.mark.parametrize("root", [True, False])
def test_marks_stand_at_score_and_dose_and_tell_their_label(root):
    info = dose_info(edit(), means(), attribution())
    figure = draw_dose(info, root=root)
    for each, marks in zip(info.sites, figure.data, strict=True):
        heights = signed_root(each.doses) if root else each.doses
        np.testing.assert_allclose(marks.x, each.scores)
        np.testing.assert_allclose(marks.y, heights)
        assert [found[0] for found in marks.customdata] == each.labels
        assert marks.customdata[0][2] == f"{each.doses[0]:+.3g}"
        assert marks.name == f"{'heads' if each.site == 'attn' else 'neurons'}: {len(each.doses)} of {each.total} edited"
        assert all(text in ("", label) for text, label in zip(marks.text, each.labels, strict=True))
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol
    assert figure.data[0].marker.color != figure.data[1].marker.color
    strongest = max(info.sites, key=lambda each: abs(each.doses[0]))
    assert strongest.labels[0] in {text for marks in figure.data for text in marks.text}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_numbers_of_the_root_axis_stand_at_their_root(scale):
    figure = draw_dose(dose_info(scale * edit(), means(), attribution()))
    axis = figure.layout.yaxis
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in axis.ticktext]
    assert len(shown) >= 3
    assert 0.0 in shown
    np.testing.assert_allclose(axis.tickvals, [math.copysign(math.sqrt(abs(each)), each) for each in shown], rtol=1e-5)
    gaps = np.diff(axis.tickvals)
    assert (gaps > (axis.range[1] - axis.range[0]) / 13).all()


def test_of_many_neurons_the_strongest_are_drawn_and_all_are_counted():
    count = 1500
    many = edit(neurons=count)
    many = dataclasses.replace(many, mlp=(site_edit(random(3, count, seed=4), 1),))
    info = dose_info(many, means(neurons=count), attribution(neurons=count))
    neurons = info.sites[1]
    assert (len(neurons.doses), int(neurons.drawn.sum())) == (3 * count, MOST)
    assert neurons.drawn[: MOST // 2].all()
    hidden = np.abs(neurons.scores[~neurons.drawn]).max()
    assert (np.abs(neurons.scores[MOST // 2 :][neurons.drawn[MOST // 2 :]]) >= hidden).all()
    assert trace(draw_dose(info), "neurons: 4,500 of 4,500 edited<br>(1,000 of them drawn)").x.shape == (MOST,)


def test_doses_of_what_does_not_belong_together_are_refused():
    one, averages, scores = edit(), means(), attribution()
    with pytest.raises(ShapeError, match="one per behaviour"):
        dose_info(one + one, averages, scores)
    with pytest.raises(ShapeError, match="another model's"):
        dose_info(one, means(d_head=6), scores)
    with pytest.raises(MismatchError, match="different weights"):
        dose_info(one, averages, dataclasses.replace(scores, provenance=provenance("other")))
    with pytest.raises(ShapeError, match="leaves every component as it is"):
        dose_info(0.0 * one, averages, scores)
    only = dataclasses.replace(one, attn=())
    assert [each.site for each in dose_info(only, averages, scores).sites] == ["mlp"]


def test_every_figure_has_the_house_template_and_a_form_that_fits():
    info = geometry_info(two())
    figures = [draw_edit_distribution(edit_distribution_info({"toy": edit()}, site=site)) for site in SITES]
    figures += [draw_direction_norms(info), draw_direction_cosines(info, between="layers")]
    figures.append(draw_dose(dose_info(edit(), means(), attribution())))
    for figure in figures:
        assert figure.layout.template == HOUSE
        assert figure.layout.width is None
        inner = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
        assert inner >= 89


# room


@pytest.mark.parametrize("layers", [3, 6, 12, 32, 80, 126])
def test_numbers_under_a_narrow_panel_of_layers_stay_level_and_few(layers):
    info = geometry_info({"one": directions(layers=layers)})
    for axis in (draw_direction_cosines(info, between="layers").layout.xaxis, draw_direction_norms(info).layout.xaxis):
        assert axis.tickangle == 0
    narrow = draw_direction_cosines(info, between="layers").layout
    panel = (320 - narrow.margin.l - narrow.margin.r) * (narrow.xaxis.domain[1] - narrow.xaxis.domain[0])
    assert panel * narrow.xaxis.dtick / layers > 7 * len(str(layers - 1)) + 3


def test_the_title_of_the_dose_axis_stands_clear_of_long_negative_numbers():
    figure = draw_dose(dose_info(edit(), means(), attribution()))
    (title,) = [each for each in figure.layout.annotations if each.textangle == -90]
    longest = 7 * len("\N{MINUS SIGN}0.0005")
    assert -title.xshift - 8 >= longest
    assert -title.xshift + 8 <= figure.layout.margin.l
