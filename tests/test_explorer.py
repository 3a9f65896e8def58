"""The explorer in a real browser. Skipped, with the reason, where Dash, Playwright or a Chromium is not there."""

import dataclasses
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import s2e_lens as s2e
from s2e_lens.errors import MissingPackageError
from s2e_lens.evaluation import Grid, Plan
from s2e_lens.results import SITES
from s2e_lens.storage import load
from tests.browser import chromium, needs_browser

try:
    import playwright.sync_api as playwright

    from s2e_lens.app import Explorer, explore
    from s2e_lens.app.settings import planned
    from s2e_lens.app.state import State
except (ImportError, MissingPackageError) as missing:
    pytest.skip(f"the explorer's page cannot be tested: {missing}", allow_module_level=True)

pytestmark = needs_browser
WAIT = 30_000
"""Milliseconds: a page is slow on a machine that does much else."""
playwright.expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished sweep of the demo."""
    from s2e_lens.behaviors import load_behavior
    from s2e_lens.pipeline.sweeps import sweep

    whole = load_behavior("safety")
    few = dataclasses.replace(
        whole, validation=whole.validation[:8], test=whole.test[:8], utility=[], also=(), neutral=whole.neutral[:4], system=None
    )
    out = tmp_path_factory.mktemp("sweeps") / "safety"
    grid = Grid((1.2,), (0.7, 1.5), (0.5,), scores=("contrast",), layers=("0%-67%",))
    sweep(s2e.load_model("demo"), few, out, Plan(grid, strengths=(0.25, 0.5)), share=True)
    return out


@pytest.fixture(scope="module")
def foreign_sweep(sweep_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep, as if it had been measured on other weights."""
    out = tmp_path_factory.mktemp("foreign") / "other"
    shutil.copytree(sweep_folder, out)
    told = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**told, "weights": "xxh3:0"}))
    return out


@pytest.fixture(scope="module")
def explorer(sweep_folder: Path, foreign_sweep: Path) -> Iterator[Explorer]:
    made = explore("demo", sweeps=[sweep_folder, foreign_sweep])
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Watched:
    """A page whose requests, errors and console are written down."""

    def __init__(self, browser: Any, explorer: Explorer, *, width: int = 1400):
        self.explorer, self.context = explorer, browser.new_context(viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(f"page error: {error}"))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)

    def open(self, query: str = "") -> Any:
        self.page.goto(self.explorer.url + query)
        self.page.wait_for_selector("#count-mlp")
        self.page.wait_for_selector("#panel-heads .heatmaplayer image", state="attached")
        self.page.wait_for_selector("#table table", state="attached")
        return self.page

    def state(self) -> State:
        """What the address says, once it rests."""
        read: list[str] = []
        while len(read) < 3 or len(set(read[-3:])) > 1:
            self.page.wait_for_timeout(150)
            read.append(self.page.evaluate("location.search"))
        found, _, messages = State.from_query(self.page.evaluate("location.search"))
        assert messages == []
        return found

    def counts(self) -> tuple[int, int]:
        heads, neurons = (self.page.inner_text(f"#count-{site}").replace(",", "") for site in SITES)
        return int(heads), int(neurons)

    def shows_counts_of(self, state: State) -> None:
        """Wait until the page's counts are those of the edit of a state, as it is planned here."""
        ready = self.explorer.context.workspace.need(state)
        edit = planned(ready, state)
        for site in SITES:
            playwright.expect(self.page.locator(f"#count-{site}")).to_have_text(f"{edit.count(site):,}")

    def check(self) -> None:
        assert self.wrong == []
        outside = [url for url in self.requests if not url.startswith((self.explorer.url, "data:", "blob:", "about:"))]
        assert outside == []
        assert any(url.startswith(self.explorer.url) for url in self.requests)  # else nothing was watched

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()


@pytest.fixture
def watched(browser: Any, explorer: Explorer) -> Iterator[Watched]:
    made = Watched(browser, explorer)
    yield made
    made.context.close()


def slide(page: Any, name: str, steps: int) -> None:
    """Move a slider with the keyboard, as a reader would."""
    page.focus(f"#{name}")
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")


def test_a_cell_a_label_and_the_keyboard_open_a_card(watched: Watched) -> None:
    page = watched.open()
    expect = playwright.expect
    box = page.locator("#panel-heads .heatmaplayer image").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 2.5 / 6)
    expect(page.locator("#at")).to_have_value("L2H3")
    expect(page.locator("#facts h3")).to_have_text("L2H3: head 3 of layer 2")
    expect(page.locator("#words code").first).to_be_visible()
    frame = page.frame_locator("#reading iframe")
    expect(frame.get_by_text("Attention of L2H3")).to_be_visible()
    expect(frame.locator("canvas").first).to_be_visible()
    expect(page.locator("#firing .tokens")).to_contain_text("<|assistant|>")
    page.fill("#at", "l2n65")
    page.keyboard.press("Enter")
    expect(page.locator("#facts h3")).to_have_text("L2N65: neuron 65 of layer 2")
    expect(page.locator("#reading h4").first).to_have_text("Where it is active")
    assert watched.state().at.upper() == "L2N65"
    # the table: sort by a column, go down two rows and open a card, all by keyboard
    page.locator("#table button[data-sort=dose]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#table th[aria-sort=descending]")).to_contain_text("dose")
    labels = page.locator("#table button.open").all_inner_texts()
    page.locator("#table button.open").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#facts h3")).to_contain_text(f"{labels[2]}:")
    expect(page.locator("#table tr.chosen")).to_contain_text(labels[2])
    watched.check()


def test_sliders_and_switches_change_the_edit_that_is_planned(watched: Watched) -> None:
    page = watched.open()
    first = watched.state()
    watched.shows_counts_of(first)
    seen = [watched.counts()]
    for name, field in (("slide-attn", "rho_attn"), ("slide-mlp", "rho_mlp"), ("alpha-slide", "alpha")):
        before = watched.state()
        slide(page, name, 6)
        playwright.expect(page.locator("#summary")).not_to_contain_text("nothing here")
        after = watched.state()
        assert getattr(after, field) > getattr(before, field)
        watched.shows_counts_of(after)
        seen.append(watched.counts())
    assert len(set(seen)) == 4
    page.fill("#rho-mlp", "0.7")
    watched.shows_counts_of(dataclasses.replace(after, rho_mlp=0.7))
    page.get_by_label("Heads", exact=True).first.uncheck()
    watched.shows_counts_of(dataclasses.replace(after, rho_mlp=0.7, rho_attn=None))
    page.get_by_label("Heads", exact=True).first.check()
    page.fill("#layers", "0-2")
    page.keyboard.press("Enter")
    watched.shows_counts_of(dataclasses.replace(after, rho_mlp=0.7, layers="0-2"))
    page.fill("#at", "L2N65")
    page.keyboard.press("Enter")
    page.click("#switch")
    playwright.expect(page.locator("#chips")).to_contain_text("L2N65")
    watched.shows_counts_of(dataclasses.replace(after, rho_mlp=0.7, layers="0-2", off=("L2N65",)))
    playwright.expect(page.locator("#facts")).to_contain_text("switched off")
    slide(page, "slide-mlp", 3)
    assert watched.state().off == ("L2N65",)  # the edit keeps that
    page.click("#chips button")
    playwright.expect(page.locator("#chips")).to_be_empty()
    watched.check()


def test_the_answers_are_streamed_and_are_those_of_the_model(watched: Watched) -> None:
    page = watched.open("?rho_mlp=0.8&rho_attn=off&strength=0.8&tokens=40&tab=prompt")
    page.fill("#prompt", "Show each step. What is 34 + 58 - 7?")
    page.click("#go")
    playwright.expect(page.locator("#text-edited")).not_to_be_empty(timeout=WAIT)
    playwright.expect(page.locator("#stop")).to_be_disabled(timeout=WAIT)
    state = watched.state()
    ready = watched.explorer.context.workspace.need(state)
    model = ready.model
    ids = model.text.prompt_ids(state.prompt)
    with watched.explorer.lock():
        want = [model.generate([ids], max_new_tokens=40)[0]]
        with s2e.steered(model, ready.directions, 0.8):
            want.append(model.generate([ids], max_new_tokens=40)[0])
        with s2e.edited(model, planned(ready, state)):
            want.append(model.generate([ids], max_new_tokens=40)[0])
    texts = [model.text.decode(each) for each in want]
    assert len(set(texts)) > 1
    for name, text in zip(("base", "steered", "edited"), texts, strict=True):
        playwright.expect(page.locator(f"#text-{name}")).to_have_text(text)
        assert page.locator(f"#answer-{name} .token[title*='y·v̂']").count() > 3
    playwright.expect(page.locator("#panel-next .barlayer").first).to_be_visible()
    before = page.locator("#answer-edited .token").nth(1).get_attribute("style")
    page.click("#colour")
    page.get_by_text("layer 1, attn", exact=True).click()
    playwright.expect(page.locator("#scale")).to_contain_text("layer 1's attn")
    assert page.locator("#answer-edited .token").nth(1).get_attribute("style") != before
    page.click("#show-firing")
    frame = page.frame_locator("#firing-view iframe")
    playwright.expect(frame.locator(".s2e-body span").first).to_be_visible()
    watched.check()


def test_everything_can_be_taken_away(watched: Watched, tmp_path: Path) -> None:
    page = watched.open("?rho_mlp=1.3&rho_attn=0.9&off=L2N65")
    state = watched.state()
    edit = planned(watched.explorer.context.workspace.need(state), state)
    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<svg"), ("html", b"<!doctype html>")):
        with page.expect_download() as info:
            page.click(f"#panel-heads .saves button:has-text('{kind}')")
        path = tmp_path / info.value.suggested_filename
        info.value.save_as(path)
        assert path.name == f"heads.{kind}"
        assert path.read_bytes().startswith(begins)
    watched.tab("Take away")
    with page.expect_download() as info:
        page.click("#take-edit")
    info.value.save_as(tmp_path / "edit.safetensors")
    saved = load(tmp_path / "edit.safetensors")
    assert all(torch.equal(saved[site][0].lam, edit[site][0].lam) for site in SITES)
    with page.expect_download() as info:
        page.click("#take-lora")
    info.value.save_as(tmp_path / "adapter.zip")
    assert "adapter/adapter_model.safetensors" in zipfile.ZipFile(tmp_path / "adapter.zip").namelist()
    code = page.inner_text("#code")
    assert "rho_attn=0.9, rho_mlp=1.3" in code
    assert "leave_out(edit, ['L2N65'])" in code
    watched.check()


def test_an_address_gives_the_page_again(watched: Watched, browser: Any) -> None:
    page = watched.open()
    page.fill("#at", "L4H1")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#facts h3")).to_contain_text("L4H1")
    page.click("#switch")
    slide(page, "alpha-slide", 3)
    page.fill("#card-prompt", "Is <b>this</b> & that 100% fine?")
    page.keyboard.press("Enter")
    watched.tab("Take away")
    state, counts = watched.state(), watched.counts()
    assert (state.at, state.off, state.tab) == ("L4H1", ("L4H1",), "takeaway")
    assert state.prompt == "Is <b>this</b> & that 100% fine?"
    page.reload()
    page.wait_for_selector("#count-mlp")
    assert watched.state() == state
    other = Watched(browser, watched.explorer, width=400)
    other.page.goto(watched.explorer.url + page.evaluate("location.search"))
    other.page.wait_for_selector("#count-mlp")
    assert other.state() == state
    assert other.counts() == counts
    assert other.page.input_value("#prompt") == state.prompt
    assert other.page.evaluate("document.documentElement.scrollWidth") <= 400  # nothing is cut off in a narrow window
    other.check()
    other.context.close()
    watched.check()


def test_what_cannot_be_used_gets_a_message_in_the_page(watched: Watched) -> None:
    page = watched.open("?alpha=7&model=demo&rubbish=1&score=magic&off=zzz")
    problem = page.locator("#problem")
    for words in ("α must lie", "rubbish", "no score", "names no component"):
        playwright.expect(problem).to_contain_text(words)
    page.fill("#at", "L99H99")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#card-problem")).to_contain_text("L99H99")
    page.fill("#at", "L4H1")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#card-problem")).to_be_empty()
    page.fill("#alpha", "2")
    playwright.expect(page.locator("#edit-problem")).to_contain_text("α must lie")
    page.fill("#alpha", "0.2")
    playwright.expect(page.locator("#edit-problem")).to_be_empty()
    watched.tab("Prompt")
    for prompt, words in (("", "Type a prompt"), ("word " * 10_000, "do not fit the context")):
        page.fill("#prompt", prompt)
        page.click("#go")
        playwright.expect(page.locator("#prompt-problem")).to_contain_text(words)
    page.fill("#model-name", "/no/such/folder")
    page.click("#load")
    playwright.expect(problem).to_contain_text("does not exist")
    playwright.expect(page.locator("#model-name")).to_have_value(re.compile("folder|demo"))
    assert "Traceback" not in page.content()
    watched.check()


PLACE_OF_EDIT = """() => {
  const graph = document.querySelector('#panel-tradeoff .js-plotly-plot');
  graph.scrollIntoView();
  const box = graph.getBoundingClientRect(), { xaxis, yaxis } = graph._fullLayout;
  const trace = graph._fullData.find((each) => each.name === 'edit');
  return [box.left + xaxis._offset + xaxis.d2p(trace.x[0]), box.top + yaxis._offset + yaxis.d2p(trace.y[0])];
}"""


def test_a_click_on_the_trade_off_loads_its_setting(watched: Watched) -> None:
    page = watched.open("?tab=tradeoff")
    row = page.locator("#sweep-table tr.chosen button.open")
    playwright.expect(row).to_be_visible()
    row.click()
    playwright.expect(page.locator("#score-value")).to_have_text("contrast")
    state = watched.state()
    result, _ = watched.explorer.context.sweeps.result(0)
    options = result.comparison.edit.setting.options
    assert (state.score, state.rho_attn, state.rho_mlp, state.alpha) == tuple(
        options[name] for name in ("score", "rho_attn", "rho_mlp", "alpha")
    )
    assert state.layers == "0-3"
    watched.shows_counts_of(state)
    page.fill("#alpha", "0.9")
    x, y = page.evaluate(PLACE_OF_EDIT)
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    playwright.expect(page.locator("#alpha")).to_have_value(str(options["alpha"]))
    assert dataclasses.replace(watched.state(), tab="tradeoff") == state
    page.click("#sweep-table button.open:has-text('steering 0.25')")
    page.wait_for_timeout(300)
    assert watched.state().strength == 0.25
    page.click("#sweep")
    page.get_by_text("other", exact=True).click()
    playwright.expect(page.locator("#sweep-problem")).to_contain_text("weights xxh3:0")
    watched.check()


def test_two_pages_with_interleaved_clicks_get_right_answers(browser: Any, explorer: Explorer) -> None:
    pages = [Watched(browser, explorer) for _ in range(2)]
    pages[0].open("?behavior=safety&rho_mlp=0.8&tokens=32&tab=prompt")
    pages[1].open("?behavior=truthfulness&rho_mlp=1.2&rho_attn=off&tokens=32&tab=prompt")
    prompts = ["Show each step. What is 12 + 30 - 5?", "What do zanuks eat?"]
    for one, prompt in zip(pages, prompts, strict=True):
        one.page.fill("#prompt", prompt)
    for _ in range(2):  # both are asked, one after the other, before either has answered
        for one in pages:
            one.page.click("#go")
        for one in pages:
            slide(one.page, "slide-mlp", 2)
    for one in pages:
        one.page.click("#go")
    for one in pages:
        playwright.expect(one.page.locator("#stop")).to_be_disabled(timeout=WAIT)
        playwright.expect(one.page.locator("#text-edited")).not_to_be_empty()
    for one, prompt in zip(pages, prompts, strict=True):
        state = one.state()
        one.shows_counts_of(state)
        ready = explorer.context.workspace.need(state)
        ids = ready.model.text.prompt_ids(prompt)
        with explorer.lock():
            base = ready.model.generate([ids], max_new_tokens=32)[0]
            with s2e.edited(ready.model, planned(ready, state)):
                edited = ready.model.generate([ids], max_new_tokens=32)[0]
        playwright.expect(one.page.locator("#text-base")).to_have_text(ready.model.text.decode(base))
        playwright.expect(one.page.locator("#text-edited")).to_have_text(ready.model.text.decode(edited))
        one.check()
        one.context.close()
