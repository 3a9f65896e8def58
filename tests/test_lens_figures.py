"""Figures of the logit lens, of direct logit effects and of next-token probabilities."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from s2e_lens import steered
from s2e_lens.errors import ShapeError
from s2e_lens.readout import (
    LogitEffects,
    LogitLens,
    NextTokens,
    TokenLens,
    TokenValue,
    logit_effects,
    logit_lens,
    measure_scales,
    next_tokens,
)
from s2e_lens.results import Component
from s2e_lens.visualizers import (
    HOUSE,
    draw_logit_effects,
    draw_logit_lens,
    draw_next_tokens,
    logit_effects_info,
    logit_lens_info,
    next_tokens_info,
    to_html_fragment,
)
from tests.helpers import tiny_directions, tiny_edit, tiny_means
from tests.tiny import tiny_model

IDS = [1, 9, 40, 77, 100]


def lens() -> LogitLens:
    """Of three layers, the middle one of a vector that is zero."""
    promoted = tuple(TokenValue(i, f" up{i}", 1.0 - i / 10) for i in range(5))
    suppressed = tuple(TokenValue(i, f"<down{i}>", -2.0 + i / 10) for i in range(5))
    return LogitLens({("mlp", layer): TokenLens(promoted, suppressed) for layer in (0, 2)}, n_layers=3, measured=True)


def test_the_lens_shows_each_layers_tokens_strongest_first_with_symmetric_colours() -> None:
    info = logit_lens_info(lens(), top=3)
    assert info.promoted[0] == (" up0", " up1", " up2")
    assert info.suppressed[2] == ("<down0>", "<down1>", "<down2>")
    np.testing.assert_allclose(info.promoted_by, [[1.0, 0.9, 0.8], [0, 0, 0], [1.0, 0.9, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(info.suppressed_by[2], [-2.0, -1.9, -1.8], rtol=1e-6)
    assert info.limit == 2.0
    figure = draw_logit_lens(info)
    up, down = figure.data
    assert up.text[0][0] == "·up0"
    assert down.text[0][0] == "&lt;down0&gt;"
    assert list(up.text[1]) == ["", "", ""]
    assert "v̂ is zero" in up.customdata[1][0]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2.0, 2.0)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "layer 0 is on top"


def test_the_lens_of_a_model_is_drawn_for_both_sites_and_some_layers() -> None:
    model = tiny_model()
    found = logit_lens(model, tiny_directions(model), top=6)
    for site in ("attn", "mlp"):
        info = logit_lens_info(found, site=site, top=9)
        assert info.promoted[1] == tuple(each.token for each in found[site, 1].promoted), "no more than the lens has"
        assert info.unit == "relative strength"
        assert draw_logit_lens(info).layout.template == HOUSE
    assert logit_lens_info(found, layers=[1]).layers == (1,)
    for wrong in ({"top": 0}, {"layers": [2]}, {"layers": []}):
        with pytest.raises(ShapeError, match="layers 0 to 1"):
            logit_lens_info(found, **wrong)


def test_a_long_token_is_cut_in_its_cell_and_whole_in_the_hover() -> None:
    token = TokenValue(0, " " + "x" * 40, 1.0)
    info = logit_lens_info(LogitLens({("mlp", 0): TokenLens((token,) * 4, (token,) * 4)}, 1, measured=False))
    figure = draw_logit_lens(info)
    assert figure.data[0].text[0][0].endswith("…")
    assert len(figure.data[0].text[0][0]) < 12
    assert "x" * 40 in figure.data[0].customdata[0][0]


def test_effects_show_the_strongest_components_the_rest_and_the_total() -> None:
    model = tiny_model()
    edit, scales = tiny_edit(model), measure_scales(model, [IDS])
    found = logit_effects(model, edit, tiny_means(model), [4, 50], scales=scales)
    info = logit_effects_info(found, top=5)
    assert len(info.labels) == 5
    assert info.others == len(found.components) - 5
    np.testing.assert_allclose(info.effects.sum(axis=0) + info.rest, info.total, rtol=1e-3, atol=1e-5)
    assert float(np.abs(info.effects[0]).max()) == float(found.effects.abs().max())
    parts, total = draw_logit_effects(info).data
    assert len(parts.z) == 6
    np.testing.assert_allclose(total.z[0], info.total, rtol=1e-6)
    labels = draw_logit_effects(info).layout.yaxis.ticktext
    assert labels[:5] == info.labels
    assert labels[5:] == (f"{info.others} others", "total")
    every = logit_effects_info(found, top=10_000)
    assert every.others == 0
    assert "others" not in " ".join(draw_logit_effects(every).layout.yaxis.ticktext)
    nothing = LogitEffects((), (4,), ("a",), torch.zeros(0, 1))
    with pytest.raises(ShapeError, match="nothing to show"):
        logit_effects_info(nothing)
    with pytest.raises(ShapeError, match="nothing to show"):
        logit_effects_info(found, top=0)


@pytest.mark.parametrize(
    ("size", "text"), [(0.6, "+0.60"), (0.04, "+0.040"), (5.0, "+5.00"), (-25.0, "−25.0"), (250.0, "+250"), (2e-5, "+0.000020")]
)
def test_the_numbers_in_cells_have_two_digits_or_more(size: float, text: str) -> None:
    found = LogitEffects((Component("attn", 0, 1, 1.0),), (4,), ("a",), torch.tensor([[size]]))
    assert draw_logit_effects(logit_effects_info(found)).data[0].text[0][0] == text


def of_tokens(*tokens: str, sizes: tuple[float, ...] = (1.0,)) -> go.Figure:
    effects = torch.tensor(sizes)[:, None].expand(-1, len(tokens))
    components = tuple(Component("attn", 0, i, 1.0) for i in range(len(sizes)))
    return draw_logit_effects(logit_effects_info(LogitEffects(components, tuple(range(len(tokens))), tokens, effects)))


def test_up_to_eight_tokens_have_their_numbers_and_of_more_the_total_has() -> None:
    for count in (1, 7, 8):
        figure = of_tokens(*["a"] * count, sizes=(1.0, -3.0))
        assert [list(row) for row in figure.data[0].text] == [["−3.00"] * count, ["+1.00"] * count]
        assert list(figure.data[1].text[0]) == ["−2.00"] * count
        assert not figure.layout.annotations
    figure = of_tokens(*["a"] * 9, sizes=(1.0, -3.0))
    assert {text for row in (*figure.data[0].text, *figure.data[1].text) for text in row} == {""}
    assert [(each.x, each.text) for each in figure.layout.annotations] == [(i, "−2.00") for i in range(9)]
    total = figure.data[1].y
    assert total[0] < figure.layout.annotations[0].y < total[1] <= figure.layout.yaxis.range[0]
    assert total[0] > len(figure.data[0].z) - 0.5, "the total stands apart"


def test_a_number_that_rounds_to_nothing_has_no_sign_and_no_number_is_wider_than_its_cell() -> None:
    assert [row[0] for row in of_tokens("a", sizes=(5.0, -0.004, 0.0, 0.006)).data[0].text] == ["+5.00", "+0.01", "≈0", "0"]
    for sizes in ((5.0, 5.0, 5.0, -0.0001), (1e-5, 3e-6), (-0.6, 0.1), (9.99, 9.0, 700.0)):
        rows = [row for data in of_tokens(*["a"] * 8, sizes=sizes).data for row in data.text]
        assert all(len(text) <= 5 for row in rows for text in row)
        assert not {text.strip("+−0.") for row in rows for text in row} & {""}


def test_tokens_above_the_columns_stay_level_and_have_room() -> None:
    names = [" Please", "<b>internationally</b>", *"abcdef"]
    wide, narrow = of_tokens("a", "b"), of_tokens(*names)
    assert narrow.layout.xaxis.tickangle == 0
    assert narrow.layout.xaxis.ticktext[0] == "·Ple<br>ase"
    assert narrow.layout.xaxis.ticktext[1] == "&lt;b&gt;i<br>nter<br>nat…"
    more = narrow.layout.margin.t - wide.layout.margin.t
    assert more == narrow.layout.coloraxis.colorbar.ypad - wide.layout.coloraxis.colorbar.ypad == 28
    assert narrow.layout.height - wide.layout.height == more
    upright = of_tokens(*names, "g")
    assert upright.layout.xaxis.tickangle == -90
    assert upright.layout.xaxis.ticktext[:2] == ("·Please", "&lt;b&gt;internat…")
    assert upright.layout.margin.t - wide.layout.margin.t + 14 >= 7 * 12


def test_suppressed_tokens_are_red_and_promoted_ones_blue() -> None:
    up, down = draw_logit_lens(logit_lens_info(lens(), top=3)).data
    np.testing.assert_allclose(up.z, [[1.0, 0.9, 0.8], [0, 0, 0], [1.0, 0.9, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(down.z, [[-2.0, -1.9, -1.8], [0, 0, 0], [-2.0, -1.9, -1.8]], rtol=1e-6)


def test_next_tokens_of_several_conditions_share_their_tokens() -> None:
    model = tiny_model()
    directions = tiny_directions(model)
    base = next_tokens(model, IDS, top=4)
    with steered(model, directions, 2.0):
        other = next_tokens(model, IDS, top=4)
    info = next_tokens_info({"base": base, "steered": other}, top=5)
    assert base.top[0].token in info.tokens
    assert other.top[0].token in info.tokens
    assert list(info.probabilities["base"]) == sorted(info.probabilities["base"], reverse=True)
    names = {each.token: each.id for each in (*base.top, *other.top)}
    for label, each in (("base", base), ("steered", other)):
        np.testing.assert_allclose(info.probabilities[label], [each.probabilities[names[token]] for token in info.tokens])
    figure = draw_next_tokens(info)
    assert [trace.name for trace in figure.data] == ["base", "steered"]
    with pytest.raises(ShapeError, match="at least one condition"):
        next_tokens_info({})
    with pytest.raises(ShapeError, match="one vocabulary"):
        next_tokens_info({"a": base, "b": NextTokens((), torch.ones(3) / 3)})


def test_tokens_and_names_add_no_markup_and_numbers_travel_as_float32() -> None:
    evil = "</script><script>alert(1)</script>"
    value = TokenValue(0, evil, 1.0)
    probabilities = torch.tensor([0.7, 0.3])
    figures = [
        draw_logit_lens(logit_lens_info(LogitLens({("mlp", 0): TokenLens((value,), (value,))}, 1, measured=True), name=evil)),
        draw_logit_effects(
            logit_effects_info(LogitEffects((Component("attn", 0, 1, 1.0),), (0,), (evil,), torch.ones(1, 1)), name=evil)
        ),
        draw_next_tokens(next_tokens_info({evil: NextTokens((value,), probabilities)}, name=evil)),
    ]
    for figure in figures:
        assert "<script>alert" not in to_html_fragment(figure)
        assert figure.layout.template == HOUSE
        traces = json.loads(figure.to_json())["data"]
        assert all(trace.get("z", trace.get("x"))["dtype"] == "f4" for trace in traces)
