"""Views of tokens: the data, the pages, and a real browser that must show every token as it is written."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from s2e_lens.errors import ShapeError
from s2e_lens.readout import activations, firings, projections, token_strings
from s2e_lens.visualizers import (
    TokenView,
    attention_info,
    circuitsvis_js,
    firing_info,
    firing_total_info,
    projection_info,
    text_activations_info,
    token_values_info,
    view_attention,
    view_style,
    view_text_activations,
    view_token_values,
    views_page,
    write_views,
)
from s2e_lens.visualizers.embedding import WORD_JOINER, as_json, literal
from tests.browser import chromium, needs_browser
from tests.helpers import tiny_directions, tiny_edit
from tests.tiny import tiny_model

SLASHED = """<img/src="x"/onerror="document.title='hacked'">"""
"""CircuitsVis turns every space into a character that ends no word of a tag; slashes get past it."""

EVIL = [
    "<s>",
    "</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    SLASHED,
    "&amp;",
    " the",
    "\n",
    "<script>alert(1)</script>",
    "&lt;",
    "$",
    "<!--",
]
IDS = [1, 9, 40, 77, 100]


def values(count: int = len(EVIL), columns: int = 0) -> torch.Tensor:
    shape = (columns, count) if columns else (count,)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def all_views() -> dict[str, TokenView]:
    patterns = torch.rand(2, len(EVIL), len(EVIL), generator=torch.Generator().manual_seed(0)).tril()
    patterns = patterns / patterns.sum(dim=-1, keepdim=True)
    texts = text_activations_info([EVIL, EVIL[:4]], [values(columns=2), values(4, columns=2)], labels=["L0N1", "<b>"], name="<i>")
    return {
        "one": view_token_values(token_values_info(EVIL, values(), name="<b>one</b>")),
        "several": view_token_values(token_values_info(EVIL, values(columns=3), labels=["a", "<b>", "c"], name="several")),
        "attention": view_attention(attention_info(EVIL, patterns, labels=["L0H1", "<b>"])),
        "texts": view_text_activations(texts),
        "pattern": view_attention(attention_info(EVIL, patterns[:1], labels=["<b>"])),
    }


# data


def test_limits_are_symmetric_and_left_to_no_single_first_token() -> None:
    info = token_values_info(["<s>", "a", "b"], torch.tensor([50.0, -2.0, 1.0]), name="n")
    assert info.limit == 2.0
    props = view_token_values(info).props
    assert (props["minValue"], props["maxValue"]) == (-2.0, 2.0)
    assert token_values_info(["<s>"], torch.tensor([-3.0]), name="n").limit == 3.0
    assert token_values_info(["<s>", "a"], torch.zeros(2), name="n").limit == 1.0
    assert token_values_info(["<s>", "a"], torch.ones(2), name="n", limit=4.0).limit == 4.0
    several = view_token_values(
        token_values_info(["a", "b"], torch.tensor([[0.0, 1.0], [0.0, -5.0]]), labels=["x", "y"], name="n")
    )
    assert several.props["positiveBounds"] == [5.0, 5.0]
    assert several.props["negativeBounds"] == [-5.0, -5.0]


def test_values_that_are_tiny_are_shown_in_a_unit_of_their_own() -> None:
    view = view_token_values(
        token_values_info(["a", "b"], torch.tensor([[0.0, 2e-7], [0.0, -1e-7]]), labels=["x", "y"], name="n")
    )
    assert "in units of 1e-09" in view.note
    assert view.props["values"][1] == pytest.approx([200.0, -100.0])
    assert view.props["positiveBounds"] == pytest.approx([200.0, 200.0])
    assert "+2e-07" in view.table


def test_projections_and_firings_of_a_model_become_columns() -> None:
    model = tiny_model()
    tokens, edit = token_strings(model, IDS), tiny_edit(model)
    along, fired = projections(model, IDS, tiny_directions(model)), firings(model, IDS, edit)
    info = projection_info(tokens, along, site="attn")
    assert info.labels == ("layer 0", "layer 1")
    assert torch.equal(torch.from_numpy(info.values), along["attn"])
    one = projection_info(tokens, along, site="mlp", layers=[1])
    assert torch.equal(torch.from_numpy(one.values), along["mlp"][1:])
    assert one.name.endswith("layer 1")
    top = firing_info(tokens, fired, top=3)
    largest = sorted(
        ((float(fired[site][layer, i].abs().max()), f"L{layer}{'H' if site == 'attn' else 'N'}{i}") for site in fired
         for layer in range(2) for i in range(fired[site].shape[1])), reverse=True
    )  # fmt: skip
    assert list(top.labels) == [label for _, label in largest[:3]]
    total = firing_total_info(tokens, fired)
    assert torch.allclose(torch.from_numpy(total.values[0]), sum(each.sum(dim=(0, 1)) for each in fired.values()), atol=1e-4)
    with pytest.raises(ShapeError, match="no component fires"):
        firing_info(tokens, {site: torch.zeros_like(each) for site, each in fired.items()})
    with pytest.raises(ShapeError, match="layers 0 to 1"):
        projection_info(tokens, along, layers=[2])


def test_attention_and_activations_of_a_model_can_be_viewed() -> None:
    model = tiny_model()
    tokens = token_strings(model, IDS)
    view = view_attention(attention_info(tokens, model.attention(IDS, [1])[0], labels=[f"L1H{i}" for i in range(4)]))
    assert torch.allclose(torch.tensor(view.props["attention"]), model.attention(IDS)[1], atol=1e-3)
    alone = view_attention(attention_info(tokens, model.attention(IDS, [1])[0, 2:3], labels=["L1H2"]))
    assert (alone.element, alone.title) == ("AttentionPattern", "Attention patterns: L1H2")
    assert torch.allclose(torch.tensor(alone.props["attention"]), model.attention(IDS)[1, 2], atol=1e-3)
    info = text_activations_info([tokens, tokens], [activations(model, IDS, ["L0N1", "L1H2"])] * 2, labels=["L0N1", "L1H2"])
    props = view_text_activations(info).props
    flat = [value for text in props["activations"] for token in text for row in token for value in row]
    assert min(flat) == pytest.approx(-max(flat)), "the scale makes the element's own limits symmetric"
    assert props["activations"][1][3][0][1] == pytest.approx(float(activations(model, IDS, ["L1H2"])[0, 3]), rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: token_values_info([], torch.zeros(0), name="n"), "at least one token"),
        (lambda: token_values_info(["a"], torch.zeros(2), name="n"), "1 tokens"),
        (lambda: token_values_info(["a"], torch.zeros(2, 1), name="n"), "0 labels"),
        (lambda: token_values_info(["a"], torch.tensor([float("nan")]), name="n"), "NaN or infinity"),
        (lambda: token_values_info(["a"], torch.zeros(1), name="n", limit=0.0), "positive number"),
        (lambda: attention_info(["a"], torch.zeros(1, 2, 2), labels=["x"]), r"\[label, token, token\]"),
        (lambda: attention_info(["a"], torch.full((1, 1, 1), torch.inf), labels=["x"]), "NaN or infinity"),
        (lambda: attention_info(["a"] * 300, torch.zeros(1, 300, 300), labels=["x"]), "90,000 cells"),
        (lambda: text_activations_info([], [], labels=["x"]), "0 texts"),
        (lambda: text_activations_info([["a"]], [], labels=["x"]), "1 texts came with values of 0 texts"),
        (lambda: text_activations_info([["a"]], [torch.zeros(2, 1)], labels=["x"]), "1 labels"),
        (lambda: text_activations_info([["a"]], [torch.zeros(0, 1)], labels=[]), "0 components .* name at least one"),
    ],
)
def test_what_cannot_be_shown_is_refused(make, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make()


# pages


def test_tokens_and_titles_add_no_markup_to_a_page() -> None:
    page = views_page(*all_views().values(), title="</title><script>alert(2)</script>")
    rest = page.replace(circuitsvis_js(), "")
    assert len(rest) < 60_000
    assert rest.count("<script>") == 1 + 5, "the bundle, and one script a view"
    assert rest.count("</script>") == 1 + 5
    assert not re.search(r"<(img|link|i|script src)|alert\(\d\)</script>|<b>", rest)
    assert "</script" not in circuitsvis_js()


def test_a_page_holds_the_bundle_once_and_links_nothing(tmp_path: Path) -> None:
    write_views(tmp_path / "page.html", *all_views().values(), title="views")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count(circuitsvis_js()) == 1
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=|unpkg|sourceMappingURL", page.replace(circuitsvis_js(), ""))
    assert page == views_page(*all_views().values(), title="views"), "the same views give the same page"
    linked = all_views()["one"].to_page(bundle_file="circuitsvis.js")
    assert '<script src="circuitsvis.js"></script>' in linked
    assert len(linked) < 20_000


def test_props_travel_as_json_that_a_script_can_hold() -> None:
    text = as_json({"tokens": EVIL, "values": values()})
    assert not set("<>&") & set(text)
    assert json.loads(text)["tokens"] == EVIL
    with pytest.raises(ValueError, match="JSON"):
        as_json({"values": [float("nan")]})


def test_the_keys_and_tables_say_what_the_colours_and_numbers_are() -> None:
    view = view_token_values(token_values_info(["a", " b"], torch.tensor([1.5, -2.5]), name="n", positive="up", negative="down"))
    fragment = view.to_html(div_id="x")
    assert re.search(r"−2\.5 <span [^>]*></span> \+2\.5</span> <span>red: down, blue: up<", fragment)
    assert '<th scope="row">·b</th><td>-2.5</td>' in fragment
    assert view_attention(attention_info(["a"], torch.ones(1, 1, 1), labels=["L0H0"])).to_html().count("0 <span") == 1
    long = token_values_info(["a"] * 5000, torch.zeros(5000), name="n")
    assert view_token_values(long).table == ""


def test_a_view_shows_itself_in_jupyter_with_all_that_it_needs() -> None:
    html = all_views()["one"]._repr_html_()
    assert circuitsvis_js() in html
    assert "if (!window.CircuitsVis)" in html
    assert view_style() in html


# a real browser


def visit(page: str, tmp_path: Path, act=lambda tab: None) -> SimpleNamespace:
    """What a browser makes of a page: its requests, its errors, and what ``act`` sees. Everything but the page is blocked."""
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    requests: list[str] = []
    errors: list[str] = []
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 700, "height": 900})
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))

        def route(each) -> None:
            if each.request.url == path.as_uri():
                each.continue_()
            else:
                requests.append(each.request.url)
                each.abort()

        tab.route("**/*", route)
        tab.goto(path.as_uri())
        tab.wait_for_timeout(1200)
        seen = act(tab)
        title = tab.title()
    return SimpleNamespace(requests=requests, errors=errors, seen=seen, title=title)


def shown_tokens(tab, where: str) -> list[str]:
    spans = tab.locator(f"{where} .colored-tokens > span > span").all_text_contents()
    return [text.replace(WORD_JOINER, "").replace("\xa0", " ") for text in spans]


WANTED = [token.replace("\n", "↵ ") for token in EVIL]


@needs_browser
def test_a_browser_shows_special_tokens_and_markup_literally_runs_nothing_and_asks_for_nothing(tmp_path: Path) -> None:
    views = all_views()

    def act(tab) -> SimpleNamespace:
        tab.locator("#view-0 .colored-tokens > span").nth(2).hover()
        tab.wait_for_timeout(200)
        return SimpleNamespace(
            one=shown_tokens(tab, "#view-0"),
            several=shown_tokens(tab, "#view-1"),
            texts=shown_tokens(tab, "#view-3"),
            tip=tab.locator("#view-0 strong").all_text_contents(),
            images=tab.locator("img").count(),
            canvases=tab.locator("#view-2 canvas").count(),
            pattern=tab.locator("#view-4 canvas").count(),
            heads=tab.locator("#view-2 h4").all_text_contents(),
            cells=tab.locator("details th[scope=row]").all_text_contents(),
            wide=tab.evaluate("document.documentElement.scrollWidth"),
        )

    page = visit(views_page(*views.values(), title="views"), tmp_path, act)
    assert page.errors == []
    assert page.requests == []
    assert page.title == "views"
    assert page.seen.one == WANTED
    assert page.seen.several == WANTED
    assert page.seen.texts[3 : 3 + len(WANTED)] == WANTED, "after the three tokens of the scale"
    assert [tip.replace(WORD_JOINER, "") for tip in page.seen.tip] == [EVIL[2]]
    assert page.seen.images == 0
    assert page.seen.canvases == 3, "two small patterns and a large one"
    assert page.seen.pattern == 1
    assert page.seen.heads[:2] == ["L0H1", "<b>"]
    assert page.seen.cells[:2] == ["<s>", "</script>"]
    assert page.seen.wide <= 700


@needs_browser
def test_a_browser_does_lose_tokens_without_our_care(tmp_path: Path) -> None:
    """The negative control: CircuitsVis as it comes, its bundle inlined as it does itself when it finds no network."""
    from circuitsvis.utils.render import render_local

    raw = render_local("ColoredTokens", tokens=["<s>", SLASHED, "a"], values=[0.1, 0.2, 0.3])
    page = visit(f"<!doctype html><title>raw</title><body>{raw}", tmp_path, lambda tab: shown_tokens(tab, "body"))
    assert page.seen != ["<s>", SLASHED, "a"]
    assert "" in page.seen, "the special token is gone"
    assert page.title == "hacked", "markup in a token runs"
    assert any(url.endswith("/x") for url in page.requests)


@needs_browser
def test_without_the_joiner_the_same_page_would_lose_them(tmp_path: Path) -> None:
    view = all_views()["one"]
    bare = dataclasses.replace(
        view, props={**view.props, "tokens": [token.replace(WORD_JOINER, "") for token in view.props["tokens"]]}
    )
    page = visit(bare.to_page(), tmp_path, lambda tab: shown_tokens(tab, "#view-0"))
    assert page.seen != WANTED
    assert page.title == "hacked"


@needs_browser
def test_several_outputs_of_one_notebook_run_the_bundle_once_and_all_show(tmp_path: Path) -> None:
    views = list(all_views().values())[:2]
    page = "<!doctype html><title>notebook</title><body>" + "".join(
        f"<div>{view._repr_html_()}</div>" for view in [*views, views[0]]
    )

    def act(tab):
        return [shown_tokens(tab, f".s2e-view >> nth={i} >> css=div") for i in range(3)], tab.locator(".colored-tokens").count()

    page = visit(page, tmp_path, act)
    assert page.errors == []
    assert page.requests == []
    assert page.seen[1] == 3


@needs_browser
def test_pointing_at_a_label_shows_its_column_and_the_limits_stay(tmp_path: Path) -> None:
    info = token_values_info(["a", "b"], torch.tensor([[0.0, 0.1], [0.0, -10.0]]), labels=["small", "large"], name="n")

    def act(tab):
        colour = "el => getComputedStyle(el).backgroundColor"
        token = tab.locator("#view-0 .colored-tokens > span > span").nth(1)
        before = token.evaluate(colour)
        tab.get_by_text("large", exact=True).first.hover()
        tab.wait_for_timeout(200)
        return before, token.evaluate(colour)

    before, after = visit(view_token_values(info).to_page(), tmp_path, act).seen
    assert before.startswith("rgb(25") or before == "rgb(252, 252, 255)", before
    assert after == "rgb(255, 0, 0)", "the largest magnitude is full red"


def hue(colour: str) -> str:
    """Bluish, reddish or neither, of an ``rgb()``."""
    red, _, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return "neither" if abs(blue - red) < 40 else "blue" if blue > red else "red"


@needs_browser
def test_what_is_positive_is_blue_and_what_is_negative_red_as_the_key_says(tmp_path: Path) -> None:
    tokens, column = ["a", "b", "c"], torch.tensor([3.0, -3.0, 0.0])
    views = [
        view_token_values(token_values_info(tokens, column, name="n", limit=3.0)),
        view_token_values(token_values_info(tokens, torch.stack([column, -column]), labels=["x", "y"], name="n", limit=3.0)),
        view_text_activations(text_activations_info([tokens], [column[None]], labels=["L0N1"])),
    ]

    def act(tab) -> list[list[str]]:
        background = "el => getComputedStyle(el).backgroundColor"
        found = []
        for number in range(3):
            spans = tab.locator(f"#view-{number} .colored-tokens > span > span")
            shown = [hue(spans.nth(i).evaluate(background)) for i in range(spans.count())][-3:]
            ramp = tab.locator(".s2e-ramp").nth(number).evaluate("el => getComputedStyle(el).backgroundImage")
            found.append(shown + [hue(end) for end in re.findall(r"rgb\([^)]*\)", ramp)])
        return found

    for tokens_and_key in visit(views_page(*views), tmp_path, act).seen:
        assert tokens_and_key[:3] == ["blue", "red", "neither"], "+3, -3 and 0"
        assert tokens_and_key[3:] == ["red", "neither", "blue"], "the key, from its left end to its right end"


@needs_browser
def test_attention_is_blue_and_what_comes_later_in_the_text_is_grey(tmp_path: Path) -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    one = view_attention(attention_info(["a", "b", "c"], pattern[None], labels=["L0H1"]))
    two = view_attention(attention_info(["a", "b", "c"], torch.stack([pattern, pattern]), labels=["L0H1", "L0H2"]))
    cell = """(el, [row, column]) => {
        const [w, h] = [el.width / 3, el.height / 3];
        const context = el.getContext("2d");
        return [...context.getImageData(Math.floor((column + 0.5) * w), Math.floor((row + 0.5) * h), 1, 1).data].slice(0, 3);
    }"""

    def act(tab) -> list[dict[tuple[int, int], list[int]]]:
        canvases = tab.locator("canvas")
        where = [(0, 0), (1, 0), (0, 2)]
        return [{at: canvases.nth(i).evaluate(cell, list(at)) for at in where} for i in range(canvases.count())]

    seen = visit(views_page(one, two), tmp_path, act).seen
    assert len(seen) == 4, "a pattern alone; two small ones and a large one"
    for colours in seen:
        assert hue(str(colours[0, 0])) == "blue", colours
        assert min(colours[1, 0]) == 255, "no attention to an earlier token is white"
        assert max(colours[0, 2]) < 250, "a later token is grey"
        assert hue(str(colours[0, 2])) == "neither", colours


@needs_browser
@pytest.mark.parametrize("media", ["screen", "print"])
def test_what_is_to_be_pointed_at_is_said_on_the_screen_and_not_on_paper(media: str, tmp_path: Path) -> None:
    def act(tab) -> str:
        tab.emulate_media(media=media)
        return tab.locator("body").inner_text()

    shown = visit(views_page(*all_views().values()), tmp_path, act).seen
    for hint in ("Point at a label", "Choose a component", "Head Selector"):
        assert (hint in shown) == (media == "screen")
    for fact in ("The first line is the scale", "L0H1 Zoomed", "A row is a token that looks back"):
        assert fact in shown


@needs_browser
def test_the_ends_of_a_key_stay_beside_each_other_on_a_narrow_screen(tmp_path: Path) -> None:
    info = token_values_info(
        ["a", "b"], torch.tensor([135.0, -135.0]), name="n", positive="pushes along +v̂", negative="pushes along −v̂", limit=135.0
    )

    def act(tab) -> tuple[int, int, list[int]]:
        tab.set_viewport_size({"width": 320, "height": 400})
        lines = """el => {
            const range = document.createRange();
            range.selectNodeContents(el);
            return [...range.getClientRects()].filter(each => each.width > 2).map(each => Math.round(each.top + each.height / 2));
        }"""
        whole, words = tab.locator(".s2e-scale").evaluate(lines), tab.locator(".s2e-key > span").nth(1).evaluate(lines)
        return max(whole) - min(whole), tab.evaluate("document.documentElement.scrollWidth"), words

    spread, wide, words = visit(view_token_values(info).to_page(), tmp_path, act).seen
    assert spread <= 4, "one line"
    assert wide <= 320
    assert len(words) == 1


def test_literal_keeps_the_characters_and_breaks_the_markup() -> None:
    for token in EVIL:
        assert literal(token).replace(WORD_JOINER, "").replace("↵\n", "\n") == token
        assert not re.search(r"<[a-zA-Z/!?]|&[#a-zA-Z]", literal(token))
