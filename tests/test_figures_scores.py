import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from s2e_lens.errors import ShapeError
from s2e_lens.visualizers import (
    HOUSE,
    draw_head_heatmap,
    draw_layer_bins,
    draw_ranked_curves,
    head_heatmap_info,
    layer_bins_info,
    neuron_ranking_info,
    neuron_table,
    ranked_curves_info,
)
from tests.figures import colour, random, sparse, titles, trace

# heads, coloured by λ


def test_lambda_as_colour_keeps_the_score_for_the_hover():
    scores, lam = random(3, 4), sparse(3, 4, keep=0.6, seed=3) * 2
    info = head_heatmap_info(scores, edited=lam, name="cosine", colour="lam")
    heatmap = draw_head_heatmap(info).data[0]
    np.testing.assert_array_equal(heatmap.z, lam.numpy())
    np.testing.assert_array_equal(heatmap.customdata, scores.numpy())
    assert heatmap.hovertemplate == "%{text}, λ %{z:+.3~g}, cosine %{customdata:+.3~g}<extra></extra>"
    assert heatmap.zmax == lam.abs().max().item() == info.limit
    assert heatmap.colorbar.title.text == "λ"


@pytest.mark.parametrize("edited", [None, torch.ones(3, 4, dtype=torch.bool)])
def test_lambda_that_is_not_known_is_not_shown(edited):
    with pytest.raises(ShapeError, match="no λ of the heads came"):
        head_heatmap_info(random(3, 4), edited=edited, name="cosine", colour="lam")


# the table of neurons


def test_the_table_tells_the_same_as_the_tensors():
    scores, lam = random(4, 30), sparse(4, 30, seed=2)
    table = neuron_table(neuron_ranking_info(scores, k=15, lam=lam, name="cosine"))
    assert list(table.columns) == ["rank", "label", "layer", "neuron", "score", "lam", "edited"]
    assert list(table["rank"]) == list(range(1, 16))
    for row in table.itertuples():
        assert row.label == f"L{row.layer}N{row.neuron}"
        assert row.score == pytest.approx(scores[row.layer, row.neuron].item())
        assert row.lam == pytest.approx(lam[row.layer, row.neuron].item())
        assert row.edited == (row.lam != 0)
    left = scores.abs().flatten().sort(descending=True).values
    np.testing.assert_allclose(table["score"].abs(), left[:15])


def test_without_an_edit_the_table_says_nothing_about_edits():
    table = neuron_table(neuron_ranking_info(random(4, 30), k=3, name="cosine"))
    assert list(table.columns) == ["rank", "label", "layer", "neuron", "score"]
    assert len(neuron_table(neuron_ranking_info(torch.zeros(2, 0), name="cosine"))) == 0


# ranked curves


def test_a_curve_agrees_with_sorting_its_layer():
    scores, lam = random(5, 700), sparse(5, 700, keep=0.1, seed=4)
    info = ranked_curves_info(scores, lam=lam, name="cosine")
    for layer in range(5):
        ordered = sorted(range(700), key=lambda i: -abs(scores[layer, i].item()))
        for place, rank in enumerate(info.ranks.tolist()):
            assert info.neurons[layer, place] == ordered[rank - 1]
            assert info.scores[layer, place] == scores[layer, ordered[rank - 1]].item()
            assert info.lam[layer, place] == lam[layer, ordered[rank - 1]].item()
    assert info.edited.tolist() == [int((row != 0).sum()) for row in lam]
    # Negative control: the curve of another layer is another one.
    assert not np.array_equal(info.neurons[0], info.neurons[1])


@pytest.mark.parametrize("width", [1, 2, 32, 33, 704, 14336])
def test_ranks_hold_the_first_ones_and_the_last_and_stay_few(width):
    ranks = ranked_curves_info(random(1, width), name="cosine").ranks.tolist()
    assert ranks[: min(width, 32)] == list(range(1, min(width, 32) + 1))
    assert ranks[-1] == width
    assert len(ranks) <= 130
    assert all(later > earlier for earlier, later in zip(ranks, ranks[1:], strict=False))


def test_curves_are_drawn_over_a_logarithmic_rank_with_a_colour_per_layer():
    info = ranked_curves_info(random(32, 200), name="cosine")
    figure = draw_ranked_curves(info)
    curves = [trace(figure, f"layer {layer}") for layer in range(32)]
    assert figure.layout.xaxis.type == "log"
    assert len({each.line.color for each in curves}) == 32
    np.testing.assert_allclose(curves[3].y, np.abs(info.scores[3]))
    assert curves[3].text[0].startswith(f"{info.label(3, 0)}, rank 1 in layer 3<br>score ")
    bar = figure.data[-1].marker
    assert bar.colorscale[0][1] == curves[0].line.color
    assert bar.colorscale[-1][1] == curves[-1].line.color
    assert [int(each) for each in bar.colorbar.ticktext] == [int(each) for each in bar.colorbar.tickvals]
    assert titles(figure) == {"rank in its layer (of 200)", "|cosine|"}


def test_the_edited_part_of_a_curve_is_thick_and_counted():
    scores = random(2, 50)
    lam = torch.where(scores.abs() > 1.2, scores, 0.0)
    lam[1] = 0
    figure = draw_ranked_curves(ranked_curves_info(scores, lam=lam, name="cosine"))
    thick = trace(figure, "edited in layer 0")
    count = int((lam != 0).sum())
    assert np.isfinite(thick.y).tolist() == [i < count for i in range(len(thick.y))]
    assert trace(figure, f"edited: {count} of 100").showlegend
    assert "λ" in trace(figure, "layer 0").text[0]
    assert not [each for each in figure.data if each.name == "edited in layer 1"]


# bins


@pytest.mark.parametrize(("width", "bins"), [(704, 64), (50, 64), (14336, 64), (10, 3), (1, 1)])
def test_each_bin_shows_the_neuron_of_largest_magnitude(width, bins):
    scores, lam = random(3, width), sparse(3, width, seed=5)
    info = layer_bins_info(scores, bins=bins, lam=lam, name="cosine")
    edges = info.edges.tolist()
    assert (edges[0], edges[-1], len(edges)) == (0, width, min(bins, width) + 1)
    widths = np.diff(edges)
    assert widths.max() - widths.min() <= 1
    for layer in range(3):
        for b, (first, end) in enumerate(zip(edges, edges[1:], strict=False)):
            largest = max(range(first, end), key=lambda i: abs(scores[layer, i].item()))
            assert info.neurons[layer, b] == largest
            assert info.scores[layer, b] == scores[layer, largest].item()
            assert info.lam[layer, b] == lam[layer, largest].item()
            assert info.edited[layer, b] == int((lam[layer, first:end] != 0).sum())


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_one_spike_among_all_neurons_of_a_large_model_is_seen(value):
    scores = random(32, 14336) * 0.02
    scores[17, 9876] = value
    info = layer_bins_info(scores, name="cosine")
    figure = draw_layer_bins(info)
    heatmap = figure.data[0]
    strongest = np.argwhere(np.abs(heatmap.z) > 0.2)
    assert strongest.tolist() == [[17, 9876 * 64 // 14336]]
    layer, b = strongest[0]
    assert heatmap.z[layer][b] == pytest.approx(value)
    assert heatmap.text[layer][b].startswith(f"L17N9876, score {value:+.3g}<br>largest of neurons ")
    assert heatmap.x[b] < 9876 < heatmap.x[b + 1]
    assert (heatmap.zmin, heatmap.zmax) == (-info.limit, info.limit)
    # Negative control: averages of the bins hide it.
    means = scores.unflatten(1, (64, -1)).mean(dim=-1).abs()
    assert means[17, b] < means.max()


def test_bins_are_drawn_with_layer_0_on_top_and_positive_blue():
    figure = draw_layer_bins(layer_bins_info(random(6, 100), name="cosine"))
    assert list(figure.layout.yaxis.range) == [5.5, -0.5]
    assert colour(figure.data[0].colorscale[-1][1], 2)
    assert colour(figure.data[0].colorscale[0][1], 0)
    assert titles(figure) == {"neuron", "layer"}
    assert figure.layout.template == HOUSE


def test_the_numbers_of_many_neurons_stay_level_and_few():
    axis = draw_layer_bins(layer_bins_info(random(2, 28672), name="cosine")).layout.xaxis
    assert axis.tickangle == 0
    assert axis.nticks * 7 * len("20,000") < 320 - 70


def test_bins_with_edited_neurons_are_marked_at_their_place():
    lam = torch.zeros(4, 100)
    lam[2, 55], lam[2, 56], lam[0, 99] = 1.0, -1.0, 2.0
    figure = draw_layer_bins(layer_bins_info(random(4, 100), bins=10, lam=lam, name="cosine"))
    marks = trace(figure, "bin with edited neurons (3 in all)")
    assert sorted(zip(marks.y, marks.x, strict=True)) == [(0, 94.5), (2, 54.5)]
    assert marks.visible is True
    assert "; 2 of 10 edited" in figure.data[0].text[2][5]
    # Where most bins hold some, marks would only hide the picture: the legend shows them.
    everywhere = draw_layer_bins(layer_bins_info(random(4, 100), bins=10, lam=torch.ones(4, 100), name="cosine"))
    assert everywhere.data[1].visible == "legendonly"


@pytest.mark.parametrize("info", [ranked_curves_info, layer_bins_info])
def test_scores_that_cannot_be_shown_are_refused(info):
    with pytest.raises(ShapeError, match="at least one layer"):
        info(torch.zeros(0, 3), name="cosine")
    with pytest.raises(ShapeError, match="first at layer 1, index 2"):
        info(torch.tensor([[0.0, 0, 0], [0, 0, torch.nan]]), name="cosine")
    with pytest.raises((ShapeError, TypeCheckError), match="is needed, the shape of the scores|parameter 'lam'"):
        info(random(2, 3), lam=random(3, 2), name="cosine")


def test_no_bins_are_refused():
    with pytest.raises(ShapeError, match="bins must be 1 or more"):
        layer_bins_info(random(2, 3), bins=0, name="cosine")


@pytest.mark.parametrize(("info", "draw"), [(ranked_curves_info, draw_ranked_curves), (layer_bins_info, draw_layer_bins)])
def test_a_mixture_of_experts_says_why_there_is_nothing(info, draw):
    figure = draw(info(torch.zeros(5, 0), lam=torch.zeros(5, 0), name="cosine"))
    assert "mixtures of experts" in figure.layout.annotations[0].text


@pytest.mark.parametrize(("info", "draw"), [(ranked_curves_info, draw_ranked_curves), (layer_bins_info, draw_layer_bins)])
def test_names_are_shown_as_plain_text(info, draw):
    page = draw(info(random(2, 40), lam=random(2, 40), name="<b>x</b>")).to_json()
    assert "<b>" not in page.replace("\\u003c", "<").replace("<br>", "")
