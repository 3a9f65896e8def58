"""Sweeps: settings, what is on disk when the process is killed, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from s2e_lens import Behavior
from s2e_lens.behaviors import Metric, Task
from s2e_lens.directions import difference_of_means
from s2e_lens.editor import plan_edit, prepare_edit
from s2e_lens.errors import ExamplesError, MismatchError, PlanError, StorageError
from s2e_lens.evaluation import (
    PRESETS,
    PUBLISHED,
    Bench,
    Grid,
    Items,
    Plan,
    Record,
    Setting,
    Sweep,
    SweepStore,
    exact_answer,
    preset,
    reasoning_length,
    refusal_rate,
    response_margin,
    steering_settings,
    sweep_frame,
)
from s2e_lens.evaluation.settings import parse_values, span
from s2e_lens.evaluation.store import MANIFEST, RESULTS
from s2e_lens.models import LensModel
from s2e_lens.pipeline.sweeps import compare_sweep, sweep, write_comparison
from s2e_lens.results import SITES, Means, Site
from tests.helpers import tiny_directions, tiny_examples
from tests.tiny import tiny_model

NEUTRAL = ("w5 w9 w40 w41 w42", "w100 w7")
GRID = Grid((None, 0.3), (0.2, 0.5), (0.1,))
PLAN = Plan(GRID, strengths=(0.25, 1.0), control_seeds=(0,))


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model()


@pytest.fixture(scope="module")
def bench(model: LensModel) -> Bench:
    return Bench(model, tiny_directions(model))


def behavior(attribute: Metric = response_margin) -> Behavior:
    examples = list({example.key: example for example in tiny_examples(60)}.values())[:30]
    task = Task("echo", exact_answer(), test=examples[20:24], validation=examples[24:28])
    return Behavior(
        "mine",
        train=examples[:8],
        validation=examples[8:14],
        test=examples[14:20],
        attribute=attribute,
        utility=(task,),
        neutral=NEUTRAL,
    )


def test_values_are_lists_ranges_and_a_site_left_out() -> None:
    assert parse_values("-,0.1:0.3:0.1,1") == (None, 0.1, 0.2, 0.3, 1.0)
    assert span(0.35, 0.55, 0.05) == (0.35, 0.4, 0.45, 0.5, 0.55)
    for wrong in ("", "a", "1:2", "0.3:0.1:0.1", "1:2:0", "1:2:-1"):
        with pytest.raises(PlanError):
            parse_values(wrong)
    for wrong in ({"attn": (0.0,)}, {"attn": (-1.0,)}, {"alphas": ()}, {"scores": ("best",)}):
        with pytest.raises(PlanError):
            Grid(**{"attn": (0.1,), "mlp": (None,), "alphas": (0.5,), **wrong})


def test_the_papers_grids_go_by_name() -> None:
    grid = preset("meta-llama/Llama-2-7b-chat-hf", "safety")
    assert len(grid.attn) * len(grid.mlp) * len(grid.alphas) == 125
    assert preset("meta-llama/Meta-Llama-3-8B-Instruct", "truthfulness").attn == (0.1, 0.11, 0.12, 0.13, 0.14)
    assert preset("/models/Qwen3-4B-Thinking-2507/", "efficiency").attn == (None,)
    with pytest.raises(PlanError, match="no grid for 'demo'"):
        preset("demo", "safety")
    with pytest.raises(PlanError, match="no grid"):
        preset("meta-llama/Llama-2-7b-chat-hf", "truthfulness")


def test_what_the_paper_chose_lies_on_the_grid_that_it_searched() -> None:
    assert PUBLISHED.keys() == PRESETS.keys()
    for key, (attn, mlp, alpha) in PUBLISHED.items():
        grid = PRESETS[key]
        assert (attn in grid.attn, mlp in grid.mlp, alpha in grid.alphas) == (True, True, True), key


def test_a_setting_makes_the_edit_that_it_was_made_from(bench: Bench) -> None:
    by_gain = Grid((None, 0.5), (2.0,), (0.05, 0.5), by="gain", scores=("cosine", "contrast"))
    for grid in (GRID, by_gain):
        for setting in grid.settings(bench):
            again = Setting("edit", json.loads(json.dumps(setting.options)))
            assert again.key == setting.key
            edit = bench.edit(again)
            o = setting.options
            want = plan_edit(bench.basis(o["score"]), rho_attn=o["rho_attn"], rho_mlp=o["rho_mlp"], alpha=o["alpha"])
            for site in SITES:
                assert [term.lam.tolist() for term in edit[site]] == [term.lam.tolist() for term in want[site]]
            about = bench.describe(setting)
            assert about["neurons"] == edit.count("mlp")
            if grid is by_gain:
                assert about["largest_gain"] == pytest.approx(2.0, rel=1e-3)
    doubled = bench.edit(Setting.of_edit(2.0 * edit))
    assert np.allclose(doubled.mlp[0].lam, 2 * edit.mlp[0].lam)
    with pytest.raises(PlanError, match="different numbers"):
        steering_settings([1.0, 1.0])


def test_the_basis_is_made_once_per_score(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        "s2e_lens.evaluation.settings.prepare_edit", lambda *a, **o: made.append(o["score"].__name__) or prepare_edit(*a, **o)
    )
    bench = Bench(model, tiny_directions(model))
    Grid((None, 0.3), (0.2, 0.5, 0.8), (0.1, 0.2, 0.3), scores=("cosine", "contrast")).settings(bench)
    assert made == ["cosine", "contrast"]


def test_a_sweep_measures_everything_on_validation_and_what_was_selected_on_test(model: LensModel, tmp_path: Path) -> None:
    done = sweep(model, behavior(), tmp_path / "s", PLAN)
    assert {each.setting.method for each in done.on("validation")} == {"base", "steering", "edit"}
    assert len(done.on("validation")) == 1 + 2 + 4
    on_test = done.on("test")
    assert {each.setting.method for each in on_test} == {
        "base",
        "steering",
        "edit",
        "random components",
        "random components, signs too",
        "random direction",
        "ablation",
    }
    chosen = done.chosen()
    assert done.get(chosen.setting, "test") is not None
    assert {each.setting.key for each in done.pareto()} <= {each.setting.key for each in on_test}
    frame = pd.read_csv(tmp_path / "s" / "sweep.csv")
    assert len(frame) == len(on_test) + 7
    assert set(frame) >= {"method", "split", "attribute", "utility", "kl", "perplexity", "degenerate", "heads", "neurons"}
    assert set(frame) >= {
        "update_norm",
        "dose_attn",
        "dose_mlp",
        "seconds",
        "rho_attn",
        "rho_mlp",
        "alpha",
        "strength",
        "task_echo",
    }
    base = frame[(frame.method == "base") & (frame.split == "test")].iloc[0]
    assert base.kl == 0
    assert base.attribute == pytest.approx(done.get(Setting("base"), "test").items.attribute.mean())
    result = compare_sweep(tmp_path / "s")
    assert result.comparison.edit.setting.key == chosen.setting.key
    assert result.comparison.tried == 4
    write_comparison(result, tmp_path / "c")
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert found["settings_tried"] == 4
    assert set(found["controls"]) == {"random components", "random components, signs too", "random direction", "ablation"}
    assert (tmp_path / "c" / "tradeoff.html").stat().st_size > 1e6
    with pytest.raises(PlanError, match="not measured on the test split: the edit"):
        # Another tolerance chooses an edit that may not have been reported; here: none within a utility above the base's.
        unmeasured = [r for r in done.on("validation") if r.setting.key not in {each.setting.key for each in on_test}]
        from s2e_lens.evaluation import compare

        compare(on_test, unmeasured[0].setting if unmeasured else Setting("edit", {"rho_mlp": 9.0}), higher_is_better=True)


def test_the_parquet_table_is_the_csv_table(model: LensModel, tmp_path: Path) -> None:
    sweep(model, behavior(), tmp_path / "s", PLAN)
    csv, parquet = pd.read_csv(tmp_path / "s" / "sweep.csv"), pd.read_parquet(tmp_path / "s" / "sweep.parquet")
    assert list(csv) == list(parquet)
    assert np.allclose(csv["attribute"], parquet["attribute"])
    assert parquet["heads"].isna().sum() == csv["heads"].isna().sum() > 0


def lines(folder: Path) -> list[bytes]:
    return (folder / RESULTS).read_bytes().splitlines(keepends=True)


def test_an_interrupted_sweep_goes_on_where_it_stopped_and_ends_the_same(model: LensModel, tmp_path: Path) -> None:
    calls = 0

    def stops(model: LensModel, examples) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return response_margin.measure(model, examples)

    interrupted = behavior(Metric(response_margin.name, stops))
    with pytest.raises(KeyboardInterrupt):
        sweep(model, interrupted, tmp_path / "s", PLAN, share=False)
    assert len(lines(tmp_path / "s")) == 3
    assert len(pd.read_csv(tmp_path / "s" / "sweep.csv")) == 3, "the partial table can be used"
    with pytest.raises(StorageError, match="resume"):
        sweep(model, interrupted, tmp_path / "s", PLAN, share=False)
    sweep(model, interrupted, tmp_path / "s", PLAN, share=False, resume=True)
    sweep(model, behavior(), tmp_path / "whole", PLAN, share=False)
    assert without_seconds(tmp_path / "s") == without_seconds(tmp_path / "whole")
    counted = calls
    sweep(model, interrupted, tmp_path / "s", PLAN, share=False, resume=True)
    assert calls == counted, "nothing is measured twice"


def without_seconds(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in lines(folder)]
    for each in found:
        each["items"].pop("seconds")
    return found


@pytest.mark.parametrize("left", [1, 30, 2000])
def test_a_line_that_was_being_written_when_the_process_died_is_dropped(model: LensModel, tmp_path: Path, left: int) -> None:
    sweep(model, behavior(), tmp_path / "s", PLAN, share=False)
    whole = without_seconds(tmp_path / "s")
    path = tmp_path / "s" / RESULTS
    path.write_bytes(path.read_bytes()[: -min(left, len(lines(tmp_path / "s")[-1]) - 1)])
    assert len(SweepStore.read(tmp_path / "s").records) == len(whole) - 1
    sweep(model, behavior(), tmp_path / "s", PLAN, share=False, resume=True)
    assert without_seconds(tmp_path / "s") == whole
    text = lines(tmp_path / "s")
    path.write_bytes(b"".join([*text[:2], b"not json\n", *text[2:]]))
    with pytest.raises(StorageError, match="line 3"):
        SweepStore.read(tmp_path / "s")


CHILD = """
import sys
from tests.test_sweep import PLAN, behavior
from tests.tiny import tiny_model
from s2e_lens.pipeline.sweeps import sweep
sweep(tiny_model(), behavior(), sys.argv[1], PLAN, share=False)
"""


def test_kill_9_loses_no_finished_setting(model: LensModel, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "s")], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    path = tmp_path / "s" / RESULTS
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 2):
        time.sleep(0.005)
    assert child.poll() is None, "it failed, or was too fast"
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = path.read_bytes().count(b"\n")
    assert finished >= 2
    kept = without_seconds_of(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    sweep(model, behavior(), tmp_path / "s", PLAN, share=False, resume=True)
    sweep(model, behavior(), tmp_path / "whole", PLAN, share=False)
    assert without_seconds(tmp_path / "s")[:finished] == kept
    assert [each["setting"] for each in without_seconds(tmp_path / "s")] == [
        e["setting"] for e in without_seconds(tmp_path / "whole")
    ]


def without_seconds_of(text: bytes) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        each["items"].pop("seconds")
    return found


def reversed_difference(means: Means, site: Site) -> torch.Tensor:
    return -difference_of_means(means, site)


def test_other_inputs_are_refused_by_name(model: LensModel, tmp_path: Path) -> None:
    sweep(model, behavior(), tmp_path / "s", PLAN)
    before = (tmp_path / "s" / RESULTS).read_bytes()

    def again(model: LensModel = model, what: Behavior | None = None, plan: Plan = PLAN) -> None:
        sweep(model, what or behavior(), tmp_path / "s", plan, resume=True)

    import dataclasses

    with pytest.raises(MismatchError, match="weights"):
        again(tiny_model(seed=1))
    with pytest.raises(MismatchError, match="plan"):
        again(plan=dataclasses.replace(PLAN, strengths=(0.5,)))
    with pytest.raises(MismatchError, match="plan"):
        again(plan=dataclasses.replace(PLAN, seed=1))
    with pytest.raises(MismatchError, match="questions"):
        again(what=dataclasses.replace(behavior(), test=list({e.key: e for e in tiny_examples(90)}.values())[30:40]))
    with pytest.raises(MismatchError, match="directions"):
        again(what=dataclasses.replace(behavior(), train=behavior().train[:6]))
    with pytest.raises(MismatchError, match="neutral"):
        again(what=dataclasses.replace(behavior(), neutral=NEUTRAL[:1]))
    with pytest.raises(MismatchError, match="metrics"):
        again(what=behavior(Metric("another", response_margin.measure)))
    with pytest.raises(MismatchError, match="metrics"):
        again(what=behavior(dataclasses.replace(response_margin, settings={"max_new_tokens": 5})))
    with pytest.raises(MismatchError, match="system"):
        again(what=dataclasses.replace(behavior(), system="Be kind."))
    assert refusal_rate(samples=2).settings != refusal_rate(samples=3).settings
    assert reasoning_length(max_new_tokens=9).settings["max_new_tokens"] == 9
    with pytest.raises(MismatchError, match="directions"):
        sweep(model, behavior(), tmp_path / "s", PLAN, resume=True, method=reversed_difference)
    with pytest.raises(MismatchError, match="other weights|measured on weights"):
        sweep(tiny_model(seed=1), behavior(), tmp_path / "foreign", PLAN, directions=tiny_directions(model))
    assert not (tmp_path / "foreign").exists()
    assert (tmp_path / "s" / RESULTS).read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="not empty"):
        sweep(model, behavior(), tmp_path / "other", PLAN)
    with pytest.raises(ExamplesError, match="no validation examples"):
        sweep(model, dataclasses.replace(behavior(), validation=()), tmp_path / "n", PLAN)


def test_a_full_disk_loses_nothing_that_was_finished(model: LensModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = 3

    def no_room(descriptor: int) -> None:
        path = tmp_path / "s" / RESULTS
        if path.exists() and path.read_bytes().count(b"\n") > full:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("s2e_lens.evaluation.store.os.fsync", no_room)
        with pytest.raises(StorageError, match="What was finished is safe"):
            sweep(model, behavior(), tmp_path / "s", PLAN, share=False)
    assert len(lines(tmp_path / "s")) == full
    sweep(model, behavior(), tmp_path / "s", PLAN, share=False, resume=True)
    assert len(SweepStore.read(tmp_path / "s").on("validation")) == 7
    (tmp_path / "s" / MANIFEST).write_text("{")
    with pytest.raises(StorageError, match="no sweep that can be read"):
        SweepStore.read(tmp_path / "s")


def test_a_search_is_seeded_and_goes_on_as_if_it_had_not_stopped(model: LensModel, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason='searching needs Optuna: pip install "s2e-lens[search]"')
    import dataclasses

    grid = Grid((None, 0.1, 1.0), (0.1, 1.0), (0.05, 0.5), scores=("cosine", "contrast"))
    plan = dataclasses.replace(PLAN, grid=grid, trials=14)
    whole = sweep(model, behavior(), tmp_path / "whole", plan)
    tried = [each for each in whole.on("validation") if each.setting.method == "edit"]
    assert len({each.setting.key for each in tried}) == 14
    for each in tried:
        assert 0.1 <= each.setting.options["rho_mlp"] <= 1.0
        assert 0.05 <= each.setting.options["alpha"] <= 0.5
    assert {each.setting.options["score"] for each in tried} == {"cosine", "contrast"}
    calls = 0

    def stops(model: LensModel, examples) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return response_margin.measure(model, examples)

    stopped = behavior(Metric(response_margin.name, stops))
    with pytest.raises(KeyboardInterrupt):
        sweep(model, stopped, tmp_path / "s", plan, share=False)
    again = sweep(model, stopped, tmp_path / "s", plan, share=False, resume=True)
    assert {e.setting.key for e in again.on("validation")} == {e.setting.key for e in whole.on("validation")}
    other = sweep(model, behavior(), tmp_path / "o", dataclasses.replace(plan, seed=1))
    assert {e.setting.key for e in other.on("validation")} != {e.setting.key for e in whole.on("validation")}


def test_settings_are_measured_in_memory_too(bench: Bench) -> None:
    found = Sweep(bench, behavior(), PLAN)
    found.run()
    assert found.chosen().setting.method == "edit"
    labels = {each.setting.label for each in found.on("test")}
    assert {"base", "steering 0.25", "steering 1", "ablation"} <= labels


def test_an_edit_of_some_layers_leaves_the_others_alone_and_meets_its_gain_there(bench: Bench) -> None:
    (setting,) = Grid((0.5,), (2.0,), (0.05,), by="gain", layers=("late",)).settings(bench)
    assert setting.options["layers"] == [1]
    assert "layers 1" in setting.label
    assert not setting.everywhere
    edit = bench.edit(Setting("edit", json.loads(json.dumps(setting.options))))
    assert edit.touched() == [("attn", 1), ("mlp", 1)]
    whole = bench.plan("cosine", 0.5, 2.0, 0.05, by="gain")
    assert whole.touched() == [("attn", 0), ("attn", 1), ("mlp", 0), ("mlp", 1)]
    assert bench.describe(setting)["largest_gain"] == pytest.approx(2.0, rel=1e-3)
    for wrong in ("9", "2-1", "50%-50%", "somewhere", "0-2"):
        with pytest.raises(PlanError, match="layers are all"):
            Grid((0.5,), (None,), (0.05,), layers=(wrong,)).settings(bench)


def test_an_edit_of_some_layers_is_compared_with_steering_of_these_layers_too(model: LensModel, tmp_path: Path) -> None:
    import dataclasses

    plan = dataclasses.replace(PLAN, grid=dataclasses.replace(GRID, layers=("early",)))
    done = sweep(model, behavior(), tmp_path / "s", plan)
    there = [each.setting for each in done.on("test") if each.setting.method == "steering" and each.setting.options.get("layers")]
    assert [each.options["layers"] for each in there] == [[0], [0]]
    found = compare_sweep(tmp_path / "s").comparison
    assert found.same_layers is not None
    assert len(found.curve) == 2
    assert all(each.setting.everywhere for each in found.curve)
    base = [found.base.items.utility, *(done.get(each, "test").items.utility for each in there)]
    assert found.same_layers[0].range == pytest.approx((min(base), max(base)))


def test_a_system_prompt_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path) -> None:
    import dataclasses

    model = tiny_model(template=True)
    told = dataclasses.replace(behavior(), system="Be kind.")  # examples of token ids cannot be told anything
    with pytest.warns(UserWarning, match="system prompt is not among the baselines"):
        done = sweep(model, told, tmp_path / "s", PLAN)
    assert "system prompt" not in {each.setting.method for each in done.on("test")}
    assert compare_sweep(tmp_path / "s").comparison.tried == 4


def made_up(attribute: float, utility: float = 0.9, kl: float = 0.0) -> Items:
    tokens = np.full(4, 10.0)
    return Items(np.full(12, attribute), {"task": np.full(12, utility)}, {}, tokens, tokens * kl, tokens)


def test_what_the_test_questions_say_chooses_nothing(bench: Bench) -> None:
    found = Sweep(bench, behavior(), PLAN)
    edits = GRID.settings(bench)
    for split, best in (("validation", 1), ("test", 2)):
        records = [Record(Setting("base"), split, {}, made_up(0.5))]
        records += [Record(each, split, {"update_norm": 1.0}, made_up(0.9 if i == best else 0.6)) for i, each in enumerate(edits)]
        for record in records:
            found._memory[record.setting.key, split] = record
    assert found.chosen().setting.key == edits[1].key
    assert [each.setting.key for each in found.pareto()] == [edits[1].key]


def test_random_directions_are_as_far_as_the_edit_by_the_published_steering_alone() -> None:
    from s2e_lens.pipeline.run import _as_far

    edit = Setting("edit", {"rho_mlp": 1.0, "layers": [0]})
    records = [Record(edit, "test", {}, made_up(0.5, kl=0.1))]
    records += [Record(each, "test", {}, made_up(0.5, kl=each.strength / 5)) for each in steering_settings([0.5, 1.0])]
    records += [
        Record(each, "test", {}, made_up(0.5, kl=each.strength / 10)) for each in steering_settings([0.5, 1.0], layers=[0])
    ]
    assert _as_far(records, edit) == 0.5


def test_a_system_prompt_has_no_kl_on_text_without_prompts(bench: Bench) -> None:
    about = bench.describe(Setting("base"))
    settings = [Setting("base"), Setting("system prompt", {"system": "Be kind."})]
    table = sweep_frame([Record(each, "test", about, made_up(0.5)) for each in settings])
    assert table["kl"].isna().tolist() == table["perplexity"].isna().tolist() == [False, True]
