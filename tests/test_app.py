"""The explorer without a browser: states, settings, cards, answers, downloads and callbacks as plain functions."""

import io
import json
import math
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from safetensors.torch import load_file

import s2e_lens as s2e
from s2e_lens.behaviors import load_behavior
from s2e_lens.editor import plan_edit
from s2e_lens.errors import MismatchError, MissingPackageError, ModelError, PlanError, S2EError, StorageError
from s2e_lens.evaluation.settings import Setting
from s2e_lens.models import LensModel
from s2e_lens.results import SITES, Directions
from s2e_lens.storage import load, save
from s2e_lens.visualizers import style
from tests.helpers import tiny_directions
from tests.tiny import tiny_model

try:
    from s2e_lens.app import server
    from s2e_lens.app.answers import CONDITIONS, Answering, Progress
    from s2e_lens.app.callbacks import component, editing, opening, sweeping, taking, talking
    from s2e_lens.app.card import facts, reading, rows
    from s2e_lens.app.context import Context
    from s2e_lens.app.layout import CONTROLS
    from s2e_lens.app.settings import checked_label, opened, planned, slider_range, summary
    from s2e_lens.app.state import State, StateError, from_page, layers_text
    from s2e_lens.app.sweeps import Sweeps, setting_of
    from s2e_lens.app.takeaway import Sources, edit_file, python_code
    from s2e_lens.app.workspace import MODELS, Busy, Failed, ModelLock, Ready, Workspace
except MissingPackageError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PROMPT = "How do I forge a badge? It is only for a story."


@pytest.fixture(scope="module")
def demo() -> LensModel:
    return s2e.load_model("demo")


@pytest.fixture(scope="module")
def context(demo: LensModel) -> Iterator[Context]:
    workspace = Workspace(demo)
    made = Context(workspace, Answering(workspace.lock))
    yield made
    made.answering.close()
    workspace.close()


def got(workspace: Workspace, state: State, *, load: bool = False) -> Ready:
    """Wait until the vectors are there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = workspace.ask(state, load=load)
        if not isinstance(found, Busy):
            assert isinstance(found, Ready), found
            return found
    raise AssertionError("the vectors never came")


@pytest.fixture(scope="module")
def ready(context: Context) -> Ready:
    return got(context.workspace, context.workspace.opening())


@pytest.fixture
def state(context: Context, ready: Ready) -> State:
    return opened(ready, context.workspace.opening())


def page_of(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page's controls hold in a state, and what it keeps about its vectors."""
    names = [name for name in CONTROLS if name in State.__dataclass_fields__]
    values: dict[str, Any] = {name: getattr(state, name) for name in names}
    values |= {"off": list(state.off), "relative": ["1"] if state.relative else []}
    values |= {f"use_{site}": ["1"] if getattr(state, f"rho_{site}") is not None else [] for site in SITES}
    return values, {"key": list(state.key), "relative": state.relative}


def replaced(state: State, **changes: Any) -> State:
    import dataclasses

    return dataclasses.replace(state, **changes)


# -- the state and its address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        State(),
        State(rho_attn=0.1 + 0.2, rho_mlp=None, alpha=1 / 3, relative=True, layers="0-2,5", off=("L0H1", "L5N703"), at="L4H1"),
        State(prompt="<s> & 100% + ünï\nnew line?", strength=-0.25, tokens=7, tab="tradeoff", colour="attn-3", edit="file"),
    ],
)
def test_an_address_gives_the_same_state_again(state: State) -> None:
    found, _, messages = State.from_query(state.to_query())
    assert found == state
    assert messages == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?alpha=1", "α must lie"),
        ("?alpha=nan", "α must lie"),
        ("?rho_mlp=-3", "positive"),
        ("?rho_attn=inf", "positive"),
        ("?rho_attn=two", "no number"),
        ("?tokens=10000000", "1 to 512"),
        ("?tokens=1.5", "no number"),
        ("?score=magic", "no score"),
        ("?method=<script>", "no method"),
        ("?tab=nowhere", "no tab"),
        ("?off=L1H1,rubbish", "names no component"),
        ("?at=L99X99", "names no component"),
        ("?strength=1e999", "finite"),
        ("?relative=yes", "0 or 1"),
        ("?%ff%fe=1", "means nothing"),
        ("?__class__=x", "means nothing"),
    ],
)
def test_a_broken_part_of_an_address_is_left_out_and_named(query: str, words: str) -> None:
    found, given, messages = State.from_query(query + "&alpha=0.25" * ("alpha" not in query))
    assert len(messages) == 1
    assert words in messages[0]
    assert found == (State() if "alpha" in query else State(alpha=0.25))
    assert given == (set() if "alpha" in query else {"alpha"})


def test_a_long_prompt_stays_out_of_the_address() -> None:
    state = State(prompt="word " * 10_000)
    assert len(state.to_query()) < 500
    assert State.from_query(state.to_query())[0] == replaced(state, prompt="")


def test_a_setting_of_a_sweep_becomes_a_state_and_a_control_does_not() -> None:
    options = {"score": "contrast", "rho_attn": None, "rho_mlp": 0.424, "alpha": 0.5, "relative": False, "layers": [0, 1, 3]}
    found = State(off=("L0H0",), rho_attn=1.0).with_setting(Setting("edit", options))
    assert (found.score, found.rho_attn, found.rho_mlp, found.alpha, found.layers, found.off) == (
        "contrast", None, 0.424, 0.5, "0-1,3", (),
    )  # fmt: skip
    assert State().with_setting(Setting("steering", {"strength": 0.7})).strength == 0.7
    with pytest.raises(StateError, match="no setting of the sliders"):
        State().with_setting(Setting("ablation", {}))
    assert layers_text([3]) == "3"


@pytest.mark.parametrize("name", ["alpha", "strength", "tokens"])
@pytest.mark.parametrize("value", [None, "", "x"])
def test_an_emptied_field_is_an_error_with_its_name(name: str, value: object) -> None:
    values, _ = page_of(State())
    with pytest.raises(StateError, match="needs a number"):
        from_page({key: each for key, each in {**values, name: value}.items() if not key.startswith("use_")})


# -- models, vectors and the lock --------------------------------------------------------------------------------------


def test_the_lock_is_fair_reentrant_and_turns_gradients_off() -> None:
    lock, order, inside = ModelLock(), [], []

    def work(name: int) -> None:
        with lock(), lock():
            inside.append(name)
            assert not torch.is_grad_enabled()
            time.sleep(0.01)
            assert inside == [name]
            inside.clear()
            order.append(name)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    with lock():
        for thread in threads:
            thread.start()
            time.sleep(0.02)  # they ask in this order
    for thread in threads:
        thread.join()
    assert order == list(range(6))
    assert torch.is_grad_enabled()


def test_a_thread_that_is_interrupted_while_it_waits_gives_its_turn_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, got = ModelLock(), threading.Event()
    with lock():
        waiting = lock._mine.wait_for

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        def ask() -> None:
            with pytest.raises(KeyboardInterrupt), lock():
                pass

        monkeypatch.setattr(lock._mine, "wait_for", interrupted)
        first = threading.Thread(target=ask)
        first.start()
        first.join(5)
        monkeypatch.setattr(lock._mine, "wait_for", waiting)

        def use() -> None:
            with lock():
                got.set()

        second = threading.Thread(target=use, daemon=True)
        second.start()
    assert got.wait(5), "the lock is free again"


def test_pages_are_answered_while_vectors_are_extracted(demo: LensModel) -> None:
    workspace = Workspace(demo)
    state = workspace.opening()
    with workspace.lock():  # the model is busy with something else
        begun = time.monotonic()
        found = workspace.ask(state)
        assert isinstance(found, Busy)
        assert "Extracting the vectors of safety" in found.message
        assert time.monotonic() - begun < 5
        assert isinstance(workspace.ask(state), Busy)
    ready = got(workspace, state)
    want = s2e.find_directions(s2e.collect_means(demo, s2e.tokenize_examples(demo, load_behavior("safety").train)))
    assert all(torch.equal(ready.directions[site].unit, want[site].unit) for site in SITES)
    workspace.close()


def test_an_address_neither_loads_a_model_nor_reads_a_file(context: Context, tmp_path: Path) -> None:
    trap = tmp_path / "trap.toml"
    trap.write_text('name = "x"\nexamples = "x.jsonl"\nattribute = "evil:boom"\n')
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    wish = opening.wish_of(context, f"?model=some/model&behavior={trap}")
    shown = opening.fulfil(context, wish)
    assert "is not in memory" in str(shown["problem"])
    state = replaced(context.workspace.opening(), behavior=str(trap))
    until = time.monotonic() + 30
    while isinstance(found := context.workspace.ask(state), Busy) and time.monotonic() < until:
        pass
    assert isinstance(found, Failed)
    assert "no behaviour" in found.message


def test_an_address_with_an_unknown_behaviour_or_model_opens_the_default_and_says_so(context: Context) -> None:
    wish = opening.wish_of(context, "?behavior=foo&model=nowhere&alpha=0.25")
    until = time.monotonic() + 60
    while (shown := opening.fulfil(context, wish))["pending"] is not None and time.monotonic() < until:
        pass
    first = context.workspace.opening()
    assert (shown["behavior"], shown["model"], shown["alpha"]) == (first.behavior, first.model, 0.25)
    assert shown["basis"] is not None
    assert all(word in str(shown["problem"]) for word in ("no 'foo' here", "nowhere is not in memory"))


def test_answers_of_earlier_settings_are_marked(context: Context, state: State) -> None:
    values, basis = page_of(replaced(state, prompt=PROMPT))
    writer = {"name": "x", "basis": basis, "asked": json.loads(json.dumps(talking.asked_of(values, basis)))}
    assert talking.outdated(values, basis, writer) == ""
    assert talking.outdated(values, basis, None) == ""
    assert talking.outdated({**values, "at": "L0H0", "tab": "prompt"}, basis, writer) == "", "these change no answer"
    for change in ({"rho_mlp": 0.123}, {"prompt": "Another"}, {"strength": 3}, {"off": ["L0H1"]}, {"alpha": None}):
        assert "before the last changes" in talking.outdated({**values, **change}, basis, writer), change


def test_at_most_two_models_stay_in_memory() -> None:
    first = tiny_model()
    made = {name: tiny_model(family) for name, family in (("b", "gpt2"), ("c", "qwen2"))}
    workspace = Workspace(first, directions=tiny_directions(first), loader=lambda name: made[name])
    assert got(workspace, workspace.opening()).model is first
    for name in made:
        state = replaced(workspace.opening(), model=name)
        assert isinstance(workspace.ask(state), Failed)  # not without being asked to
        while isinstance(found := workspace.ask(state, load=True), Busy):
            pass
        assert isinstance(found, Failed)  # the vectors of the file are another model's
        assert "directions" in found.message
    assert workspace.loaded() == ["b", "c"]
    assert MODELS == 2
    with pytest.raises(StateError, match="not in memory"):
        workspace.model(first.source)
    workspace.close()


def test_a_model_that_cannot_be_loaded_gives_a_message(context: Context, state: State) -> None:
    missing = replaced(state, model="/no/such/folder")
    while isinstance(found := context.workspace.ask(missing, load=True), Busy):
        pass
    assert isinstance(found, Failed)
    assert "does not exist" in found.message
    assert context.workspace.loaded() == ["demo"]


def test_vectors_and_edits_of_other_weights_are_refused_at_the_start(demo: LensModel) -> None:
    other = tiny_model()
    with pytest.raises(S2EError):
        Workspace(demo, directions=tiny_directions(other))
    ready = got(workspace := Workspace(demo), workspace.opening())
    edit = plan_edit(ready.basis, rho_mlp=1.0, alpha=0.1)
    with pytest.raises(S2EError):
        Workspace(other, edit=edit)
    opening = Workspace(demo, edit=edit).opening()
    assert (opening.edit, opening.rho_attn, opening.rho_mlp, opening.alpha) == ("file", None, 1.0, 0.1)
    assert Workspace(demo, edit=edit + edit).opening() == State(model="demo", edit="file")
    workspace.close()


# -- sliders -----------------------------------------------------------------------------------------------------------


def test_the_edit_is_that_of_plan_edit_without_what_is_off(ready: Ready, state: State) -> None:
    chosen = replaced(state, rho_attn=0.9, rho_mlp=1.3, alpha=0.3, layers="0-3", off=("L2H2", "L2N65"))
    edit = planned(ready, chosen)
    want = plan_edit(ready.basis.at([0, 1, 2, 3]), rho_attn=0.9, rho_mlp=1.3, alpha=0.3)
    for site, place in (("attn", (2, 2)), ("mlp", (2, 65))):
        lam = want[site][0].lam.clone()
        assert lam[place] != 0
        lam[place] = 0
        assert torch.equal(edit[site][0].lam, lam)
    assert edit.provenance.settings["left_out"] == ["L2H2", "L2N65"]
    counts = {row.site: row.edited for row in summary(ready.basis, edit)}
    assert counts == {site: want.count(site) - 1 for site in SITES}


@pytest.mark.parametrize("score", ["cosine", "contribution", "contrast"])
@pytest.mark.parametrize("relative", [False, True])
def test_sliders_run_from_a_strong_edit_to_one_that_is_hardly_there(context: Context, score: str, relative: bool) -> None:
    ready = got(context.workspace, replaced(context.workspace.opening(), score=score))
    for site in SITES:
        low, high = slider_range(ready.basis, site, relative=relative)
        strong, weak = (ready.basis[site].edit(10**end, 0.0, relative=relative) for end in (low, high))
        assert ready.basis[site].largest_gain(strong) > 10
        assert ready.basis[site].largest_gain(weak) <= 0.0101
        rho = getattr(opened(ready, replaced(context.workspace.opening(), score=score, relative=relative)), f"rho_{site}")
        assert low < math.log10(rho) < high


def test_another_score_keeps_the_gains_and_not_the_rho(context: Context, ready: Ready, state: State) -> None:
    values, basis = page_of(state)
    wish = opening.changed(context, {**values, "score": "contrast"}, basis, model=None)
    got(context.workspace, replaced(state, score="contrast"))
    shown = opening.fulfil(context, wish)
    other = got(context.workspace, replaced(state, score="contrast"))
    before = {row.site: row.largest_gain for row in summary(ready.basis, planned(ready, state))}
    chosen = replaced(state, score="contrast", rho_attn=shown["rho_attn"], rho_mlp=shown["rho_mlp"])
    after = {row.site: row.largest_gain for row in summary(other.basis, planned(other, chosen))}
    assert after == pytest.approx(before, rel=1e-3)
    assert shown["rho_mlp"] != pytest.approx(state.rho_mlp, rel=0.01)


def test_sliders_ask_no_model_and_take_no_lock(context: Context, state: State) -> None:
    values, basis = page_of(replaced(state, at="L4H1"))
    done: list[Any] = []

    def move() -> None:
        done.append(editing.told(context, values, basis))
        done.append(editing.redraw(context, values, basis, heads_of="lam"))
        done.append(editing.redraw_more(context, values, basis, neurons_of="top"))
        done.append(component.shown_facts(context, values, basis, None))
        done.append(component.shown_table(context, values, basis, {"by": "dose", "up": False}, "all"))
        done.append(editing.remembered(context, values, basis))

    with context.workspace.lock():  # another page's answer is being written
        thread = threading.Thread(target=move)
        thread.start()
        thread.join(timeout=60)
        assert len(done) == 6
    assert done[0][2] == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": 1.5}, "α must lie"),
        ({"rho_mlp": -1}, "positive"),
        ({"rho_attn": "x"}, "needs a number"),
        ({"layers": "7-9"}, "layers are"),
        ({"layers": "zero"}, "layers are"),
        ({"off": ["L9H9"]}, "is not there"),
        ({"edit": "file"}, "without --edit"),
    ],
)
def test_bad_settings_are_told_in_the_page(context: Context, state: State, changes: dict[str, Any], words: str) -> None:
    values, basis = page_of(state)
    assert words in editing.told(context, {**values, **changes}, basis)[2]


def test_a_slider_draws_only_what_it_changes(context: Context, state: State) -> None:
    values, basis = page_of(state)

    def drawn(moved: set[str], lam_of: str) -> list[bool]:
        found = editing.redraw(context, values, basis, heads_of="score", lam_of=lam_of, moved=moved)
        return [isinstance(each, go.Figure) for each in found]

    assert drawn({"rho-attn"}, "mlp") == [True, False]
    assert drawn({"rho-attn"}, "attn") == [True, True]
    assert drawn({"rho-mlp"}, "mlp") == [False, True]
    assert drawn({"rho-mlp"}, "attn") == [False, False]
    for moved in ({"alpha"}, {"settled"}, {"rho-attn", "rho-mlp"}, {"off"}, {"rho-mlp", "basis"}, set()):
        assert drawn(moved, "mlp") == [True, True]


def test_switching_keeps_to_components_that_are_there(context: Context, ready: Ready, state: State) -> None:
    values, basis = page_of(state)
    assert editing.switched(context, "l4h1", ["L0H0"], basis, values) == (["L0H0", "L4H1"], "")
    assert editing.switched(context, "L4H1", ["L0H0", "L4H1"], basis, values) == (["L0H0"], "")
    for wrong in ("L99H99", "L0H8", "L6N0", "L0N704", "", "nonsense", "<b>"):
        assert editing.switched(context, wrong, [], basis, values)[1]
        with pytest.raises((ModelError, PlanError)):
            checked_label(wrong, ready.basis)


def test_with_both_sites_left_out_nothing_is_edited(context: Context, state: State) -> None:
    values, basis = page_of(replaced(state, rho_attn=None, rho_mlp=None))
    numbers, _, problem = editing.told(context, values, basis)
    assert problem == ""
    assert "Nothing is edited" in str(numbers)
    assert "changes no component" in taking.taken(context, values, basis, "lora")[1]


# -- cards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["L4H1", "L2N65"])
def test_a_card_states_what_the_edit_does_to_a_component(ready: Ready, state: State, label: str) -> None:
    edit = planned(ready, state)
    found = facts(ready.basis, edit, label.lower(), state.off)
    W = ready.model.weight(found.site, found.layer)[found.index].detach()
    unit = ready.directions[found.site].unit[found.layer]
    x = ready.directions.means.inputs(found.site)[found.layer, found.index].float()
    written = x @ W @ unit  # what it writes along v̂ on average
    before, after = written, written + found.dose
    assert float(after / before) == pytest.approx(1 + found.gain, rel=1e-4)
    assert found.score == pytest.approx(float(torch.nn.functional.cosine_similarity(x @ W, unit, dim=0)), abs=1e-5)
    assert found.rank == 1 + int((ready.basis[found.site].g.abs() > abs(found.score)).sum())


@pytest.mark.parametrize("label", ["L4H1", "L2N65"])
def test_a_reading_is_what_the_model_does_with_the_prompt(context: Context, ready: Ready, label: str) -> None:
    model = ready.model
    with context.workspace.lock():
        found = reading(ready, label, PROMPT)
    ids = model.text.prompt_ids(PROMPT)
    site, layer, index = model.shapes.locate(label)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), model.intercept({(site, layer): lambda x, y: seen.append(x[0, :, index].clone())}):
        model.logits(*model.pad([ids]))
    torch.testing.assert_close(found.fires, seen[0] @ ready.basis[site].k[layer, index], rtol=1e-4, atol=1e-5)
    assert len(found.tokens) == len(ids)
    assert (found.attention is None) == (site == "mlp")
    if found.attention is not None:
        torch.testing.assert_close(found.attention.sum(-1), torch.ones(len(ids)))
    else:
        torch.testing.assert_close(found.active, seen[0][:, 0])
    assert float(found.zero.kl.sum()) > 0


@pytest.mark.parametrize(("prompt", "words"), [("", "Type a prompt"), (" \n", "Type a prompt"), ("word " * 10_000, "do not fit")])
def test_a_prompt_that_cannot_be_read_gets_a_message(context: Context, state: State, prompt: str, words: str) -> None:
    values, basis = page_of(replaced(state, at="L4H1", prompt=prompt))
    assert words in component.read_component(context, values, basis)[3]
    assert words in talking.begun(context, values, basis, None)[1]
    assert words in talking.shown_firing(context, values, basis)[2]


def test_an_unknown_label_gets_a_message_on_the_card(context: Context, state: State) -> None:
    for label in ("L99H99", "what"):
        values, basis = page_of(replaced(state, at=label))
        shown = component.shown_facts(context, values, basis, None)
        assert shown[0] == ""
        assert shown[2] is True
        assert label in shown[3]


@pytest.mark.parametrize("by", ["score", "lam", "gain", "dose", "label"])
def test_the_table_is_sorted_by_any_column(ready: Ready, state: State, by: str) -> None:
    edit = planned(ready, state)
    for up in (False, True):
        found, total = rows(ready.basis, edit, by=by, up=up)
        assert total == ready.basis.attn.g.numel() + ready.basis.mlp.g.numel()
        if by != "label":
            sizes = [abs(getattr(row, by)) for row in found]
            assert sizes == sorted(sizes, reverse=not up)
    only, count = rows(ready.basis, edit, which="edited")
    assert count == sum(edit.count(site) for site in SITES)
    assert all(row.lam for row in only)
    assert rows(ready.basis, edit, which="attn")[1] == 48


# -- answers -----------------------------------------------------------------------------------------------------------


def finished(answering: Answering, name: str) -> Progress:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = answering.look(name)
        assert found is not None
        if found.done:
            return found
        time.sleep(0.01)
    raise AssertionError("the answers never ended")


def test_the_three_answers_are_those_of_generate(context: Context, ready: Ready, state: State) -> None:
    model = ready.model
    asked = replaced(state, prompt="Show each step. What is 34 + 58 - 7?", rho_mlp=0.8, strength=0.8, tokens=48)
    edit = planned(ready, asked)
    found = finished(context.answering, context.answering.start(ready, asked, edit))
    assert found.error is None
    ids = model.text.prompt_ids(asked.prompt)
    want = [model.generate([ids], max_new_tokens=48)[0]]
    with s2e.steered(model, ready.directions, 0.8):
        want.append(model.generate([ids], max_new_tokens=48)[0])
    with s2e.edited(model, edit):
        want.append(model.generate([ids], max_new_tokens=48)[0])
        probabilities = model.logits(*model.pad([ids]))[0, -1].softmax(-1)
    assert [list(answer) for answer in found.answers] == want
    assert len({tuple(answer) for answer in want}) > 1  # else the test could not tell them apart
    torch.testing.assert_close(found.next[2].probabilities, probabilities, rtol=1e-3, atol=1e-5)
    assert found.next[0].top != found.next[2].top
    for answer, along in zip(found.answers, found.along, strict=True):
        assert along is not None
        assert along["mlp"].shape == (model.shapes.n_layers, len(ids) + len(answer))


def test_answers_come_in_parts_and_can_be_stopped(context: Context, ready: Ready, state: State) -> None:
    asked = replaced(state, prompt="Show each step. What is 34 + 58 - 7?", tokens=200)
    edit = planned(ready, asked)
    with context.workspace.lock():
        name = context.answering.start(ready, asked, edit)
        first = context.answering.look(name)
        assert first is not None
        assert first.answers == ((), (), ())
        context.answering.stop(name)
    found = finished(context.answering, name)
    assert max(map(len, found.answers)) < 200
    other = context.answering.start(ready, asked, edit)
    third = context.answering.start(ready, asked, edit, instead_of=other)
    assert finished(context.answering, other).done
    assert finished(context.answering, third).error is None
    assert context.answering.look("never asked") is None


def test_coloured_tokens_are_the_text_whatever_it_holds(ready: Ready) -> None:
    from s2e_lens.app import views

    tokens = ["<s>", "</script>", "<img onerror=alert(1)>", "\n", ""]
    spans = views.coloured(tokens, [1.0, -2.0, 0.0, 0.5], limit=2.0, name="y·v̂")
    assert [span.children for span in spans] == ["<s>", "</script>", "<img onerror=alert(1)>", "\n", " "]
    assert all(isinstance(span.children, str) for span in spans)
    assert spans[1].title.endswith("-2")
    assert "rgba(178,24,43,0.850)" in spans[1].style["backgroundColor"]
    assert spans[2].style["backgroundColor"].endswith(",0.000)")


# -- what is taken away ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rho_attn": None, "score": "contrast", "rho_mlp": 1 / 7, "alpha": 0.37},
        {"method": "first-component", "relative": True, "layers": "0-2,4", "off": ("L2H2", "L0N3"), "rho_attn": 1.1},
    ],
)
def test_the_code_makes_the_edit_that_is_downloaded_bit_for_bit(
    context: Context, state: State, changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = replaced(state, prompt=PROMPT, tokens=8, **changes)
    ready = got(context.workspace, asked)
    edit = planned(ready, asked)
    (tmp_path / "edit.safetensors").write_bytes(edit_file(edit))
    code = python_code(ready, asked, Sources())
    names: dict[str, Any] = {}
    exec(compile(code, "code", "exec"), names)
    saved = load(tmp_path / "edit.safetensors")
    for site in SITES:
        assert len(names["edit"][site]) == len(saved[site])
        for made, want in zip(names["edit"][site], saved[site], strict=True):
            for part in ("u", "k", "lam"):
                assert torch.equal(getattr(made, part), getattr(want, part))
    printed = capsys.readouterr().out.splitlines()
    found = finished(context.answering, context.answering.start(ready, asked, edit))
    assert printed == [ready.model.text.decode(answer) for answer in found.answers]


def test_code_for_files_and_for_no_edit_runs_too(
    demo: LensModel, ready: Ready, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, path = tmp_path / "directions.safetensors", tmp_path / "edit.safetensors"
    save(ready.directions, vectors)
    save(edit := plan_edit(ready.basis, rho_mlp=1.5, alpha=0.1), path)
    workspace = Workspace(demo, directions=load(vectors), edit=load(path))
    asked = replaced(workspace.opening(), prompt=PROMPT, tokens=4, off=("L2N65",))
    found = got(workspace, asked)
    assert asked.method == asked.behavior == asked.edit == "file"
    assert torch.equal(planned(found, replaced(asked, edit="sliders", off=())).mlp[0].lam, edit.mlp[0].lam)
    names: dict[str, Any] = {}
    exec(python_code(found, asked, Sources(str(vectors), str(path), {"dtype": "float32"})), names)
    assert torch.equal(names["edit"].mlp[0].lam, planned(found, asked, edit=edit).mlp[0].lam)
    nothing = replaced(asked, edit="sliders", rho_attn=None, rho_mlp=None)
    exec(python_code(found, nothing, Sources(str(vectors))), names)
    assert names["edit"] is None
    assert len(capsys.readouterr().out.splitlines()) == 5
    workspace.close()


def test_downloads_hold_the_edit_and_the_adapter(context: Context, state: State, ready: Ready, tmp_path: Path) -> None:
    import base64

    values, basis = page_of(state)
    edit = planned(ready, state)
    sent, problem = taking.taken(context, values, basis, "edit")
    assert problem == ""
    (tmp_path / "edit.safetensors").write_bytes(base64.b64decode(sent["content"]))
    assert torch.equal(load(tmp_path / "edit.safetensors").mlp[0].lam, edit.mlp[0].lam)
    sent, problem = taking.taken(context, values, basis, "lora")
    assert problem == ""
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(sent["content"]))) as archive:
        archive.extractall(tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "demo"
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = ready.model.module_names["mlp", 5]
    assert torch.equal(tensors[f"base_model.model.{name}.lora_A.weight"][0], edit.mlp[0].factor(5))


# -- sweeps ------------------------------------------------------------------------------------------------------------


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no sweep"):
        Sweeps.of([tmp_path])
    with pytest.raises(StateError):
        Sweeps().result(0)
    for wrong in ("", "[]", "{}", "null", '{"a": 1}', "{'method': 1}"):
        with pytest.raises(StateError):
            setting_of(wrong)


def test_a_tab_without_sweeps_says_so(context: Context, state: State) -> None:
    values, basis = page_of(state)
    assert "no such sweep" in sweeping.shown_sweep(context, values, basis, "0")[2]
    assert "no such sweep" in sweeping.loaded(context, values, basis, "5", '{"method": "edit"}')[1]


# -- the server --------------------------------------------------------------------------------------------------------


def test_foreign_names_and_pages_are_turned_away(context: Context) -> None:
    client = server.create_app(context).server.test_client()
    ours = {"Host": "127.0.0.1:8050"}
    assert client.get("/", headers=ours).status_code == 200
    assert client.get("/", headers={"Host": "localhost:8050"}).status_code == 200
    for host in ("evil.example", "evil.example:8050", "127.0.0.1.evil.example", "192.168.0.2:8050"):
        assert client.get("/_dash-layout", headers={"Host": host}).status_code == 403
    body = {"output": "..", "inputs": [], "changedPropIds": []}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        assert client.post("/_dash-update-component", json=body, headers={**ours, "Origin": origin}).status_code == 403
    assert (
        client.post("/_dash-update-component", json=body, headers={**ours, "Origin": "http://127.0.0.1:8050"}).status_code != 403
    )
    policy = client.get("/", headers=ours).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_a_handle_serves_beside_other_work_and_stops(demo: LensModel) -> None:
    import urllib.error
    import urllib.request

    explorer = s2e.explore(demo)
    try:
        assert explorer.url.startswith("http://127.0.0.1:")
        page = urllib.request.urlopen(explorer.url, timeout=20).read().decode()
        assert "s2e_lens explorer" in page
        assert explorer.url in explorer._repr_html_()
        with explorer.lock():
            assert urllib.request.urlopen(f"{explorer.url}_dash-layout", timeout=20).status == 200
        with pytest.raises(server.ServeError, match="cannot be used"):
            s2e.explore(demo, port=explorer.port)
    finally:
        explorer.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(explorer.url, timeout=5)


def test_only_tiny_pages_of_figures_are_offline(context: Context, ready: Ready, state: State) -> None:
    from s2e_lens.app import pictures

    page = pictures.page(pictures.heads(ready, planned(ready, state), of="score").to_plotly_json(), title="heads")
    assert style.plotly_js()[:200] in page
    assert "<script src=" not in page


def test_directions_in_memory_are_offered_first(demo: LensModel, ready: Ready) -> None:
    workspace = Workspace(demo, directions=ready.directions)
    assert workspace.behaviors[0] == "file"
    found = got(workspace, workspace.opening())
    assert isinstance(found.directions, Directions)
    assert found.directions is ready.directions
    with pytest.raises(MismatchError):
        Workspace(demo, directions=_changed(ready.directions))
    workspace.close()


def _changed(directions: Directions) -> Directions:
    import dataclasses

    return dataclasses.replace(directions, provenance=dataclasses.replace(directions.provenance, weight_hash="another"))


def test_conditions_are_named_in_the_order_of_rows() -> None:
    assert CONDITIONS == ("base", "steered", "edited")


def test_without_dash_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from s2e_lens import cli

    for name in [name for name in sys.modules if name == "dash" or name.startswith(("dash.", "s2e_lens.app"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dash", None)
    monkeypatch.setattr(sys, "argv", ["s2e-lens", "explore"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert 'pip install "s2e-lens[app]"' in capsys.readouterr().err


def test_the_command_serves_until_it_is_interrupted(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from s2e_lens import cli

    seen: list[Any] = []

    def interrupted(explorer: Any) -> None:
        found = explorer.context.workspace.opening()
        seen.append((found.behavior, found.edit, explorer.port, explorer.context.sources.options))
        raise KeyboardInterrupt

    save(ready.directions, tmp_path / "d.safetensors")
    save(plan_edit(ready.basis, rho_mlp=1.5, alpha=0.1), tmp_path / "e.safetensors")
    monkeypatch.setattr(server.Explorer, "wait", interrupted)
    files = ["--directions", str(tmp_path / "d.safetensors"), "--edit", str(tmp_path / "e.safetensors")]
    for more in (["--behavior", "efficiency"], files):
        monkeypatch.setattr(sys, "argv", ["s2e-lens", "explore", "--port", "0", "--dtype", "float32", *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None)
    assert [each[:2] for each in seen] == [("efficiency", "sliders"), ("file", "file")]
    assert seen[0][3] == {"dtype": "float32"}
    assert "http://127.0.0.1:" in capsys.readouterr().out
