import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

import s2e_lens
from s2e_lens import cli, load
from s2e_lens.results import SITES, Attribution, Directions, Edit
from tests.tiny import PARITY, STORIES, needs_parity, needs_stories

HAPPY_SAD = Path(__file__).parent / "data" / "happy_sad.jsonl"
LLAMA = PARITY / "llama"
COMMANDS = ("run", "extract", "attribute", "edit", "export", "sweep", "compare", "verify", "data")
REPORT_FILES = {
    "report.html",
    "plotly.min.js",
    "head_heatmap.html",
    "neuron_ranking.html",
    "tradeoff.html",
    "summary.json",
    "controls.csv",
    "measurements.csv",
    "measurements.json",
    "components.csv",
    "layers.csv",
    "samples.json",
    "directions.safetensors",
    "edit.safetensors",
}


@dataclass
class Ran:
    """What one call of the console script did."""

    status: Any
    out: str
    err: str


def s2e(*arguments: object) -> Ran:
    """Call the console script's own function, in this process."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/somewhere/bin/s2e-lens", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    return Ran(status, out.getvalue(), err.getvalue())


def done(*arguments: object) -> str:
    """What a call that succeeds prints."""
    ran = s2e(*arguments)
    assert ran.status == 0, ran.err
    return ran.out


def refusal(kind: str, *arguments: object) -> str:
    """The one line that a call fails with."""
    ran = s2e(*arguments)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"{kind}: ")
    assert ran.err.count("\n") == 1
    return ran.err


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# the program


def test_help_lists_the_commands_and_each_has_its_own():
    page = done("--help")
    assert done("-h") == page
    for name in COMMANDS:
        assert f" {name} " in page
        assert f"s2e-lens {name} [OPTIONS]" in done(name, "--help")
    assert done("--version") == f"s2e-lens {s2e_lens.__version__}\n"


def test_the_version_option_has_the_type_that_is_written_there():
    cli._common(version=cli._version(False))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["deploy"], "No such command 'deploy'"),
        (["extract", "--model", "x"], "--out"),
        (["extract", "--model", "x", "--out", "y", "--examplez", "z"], "--examplez"),
        (["attribute", "--model", "x", "--directions", "y", "--score", "beauty"], "--score"),
        (["attribute", "--model", "x", "--directions", "y", "--top", "0"], "--top"),
        (["export", "--model", "x", "--edit", "y", "--out", "z", "--format", "onnx"], "--format"),
        (["edit", "--model", "x", "--directions", "y", "--out", "z", "--alpha", "much"], "--alpha"),
    ],
)
def test_a_wrong_call_is_a_usage_error_that_names_the_option(arguments: list[str], what: str):
    ran = s2e(*arguments)
    assert (ran.status, ran.out) == (2, "")
    usage, _, problem = ran.err.partition("Error")
    assert "Usage: s2e-lens" in usage
    assert what in problem


def test_importing_the_package_and_its_help_imports_nothing_heavy():
    program = """
import contextlib, io, json, sys
heavy = ("torch", "transformers", "transformer_lens", "plotly", "pandas", "numpy", "safetensors", "sklearn")
import s2e_lens
import s2e_lens.cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    s2e_lens.cli.app(["extract", "--help"])
before = [name for name in heavy if name in sys.modules]
s2e_lens.save
print(json.dumps([before, [name for name in heavy if name in sys.modules]]))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = json.loads(ran.stdout)
    assert before == []
    assert "torch" in after, "a name that is used is imported then"


def test_the_module_runs_as_a_program_and_an_error_is_one_line_without_a_traceback(tmp_path: Path):
    missing = tmp_path / "none.jsonl"
    command = [sys.executable, "-m", "s2e_lens", "extract", "--model", "x", "--out", "y", "--examples", str(missing)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [f"ExamplesError: cannot read {missing}: [Errno 2] No such file or directory: '{missing}'"]
    assert listing(tmp_path) == {}


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands, "_method", interrupt)
    ran = s2e("extract", "--model", "x", "--out", "y")
    assert ran.status == 130
    assert "--resume" in ran.err


# errors, each found before the model is loaded: "x" is none


@pytest.mark.parametrize(
    ("kind", "arguments", "what"),
    [
        ("PlanError", ["--rho-attn", "0.2", "--dose", "1"], "only one of these"),
        ("PlanError", ["--rho-mlp", "0.2", "--heads", "3"], "only one of these"),
        ("PlanError", ["--neurons", "2", "--dose", "1"], "only one of these"),
        ("DirectionError", ["--method", "mean-centred"], "--method mean-centred and --background go together"),
        ("DirectionError", ["--background", "none"], "--method mean-centred and --background go together"),
        ("DirectionError", ["--method", "magic"], "method 'magic' is not one of difference-of-means, first-component,"),
        ("StorageError", ["--method", "mean-centred", "--background", "none"], "none is not there"),
        ("ExamplesError", [], "what should x be asked? Give --examples FILE.jsonl, or --behavior"),
        ("ExamplesError", ["--examples", "none.jsonl"], "cannot read none.jsonl"),
        ("ExamplesError", ["--behavior", "none.toml"], "cannot read none.toml"),
        ("ExamplesError", ["--behavior", "none.toml", "--examples", "none.jsonl"], "--examples or --behavior, not both"),
        ("ExamplesError", ["--examples", str(HAPPY_SAD), "--neutral", "none.txt"], "cannot read neutral text from none.txt"),
        ("ModelError", ["--examples", str(HAPPY_SAD), "--model", "./x"], "./x does not exist"),
    ],
)
def test_a_wrong_option_of_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, arguments: list[str], what: str
):
    monkeypatch.chdir(tmp_path)
    assert what in refusal(kind, "run", "--model", "x", "--out", "out", *arguments)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("command", ["edit", "attribute"])
def test_directions_that_are_not_there_are_one_line(tmp_path: Path, command: str):
    missing = tmp_path / "none.safetensors"
    refused = refusal("StorageError", command, "--model", "x", "--directions", missing, "--out", tmp_path / "out.csv")
    assert f"{missing} is not there" in refused


def test_a_foreign_folder_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("my only copy")
    for command in (["run", "--examples", HAPPY_SAD], ["export", "--edit", "none.safetensors"]):
        refused = refusal("ExportError", *command, "--model", "./x", "--out", tmp_path)
        assert f"{tmp_path} exists and is not empty" in refused
    assert listing(tmp_path) == {"thesis.txt": b"my only copy"}


@needs_parity
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--dtype", "int4"], "dtype 'int4' is not one of auto, float32, bfloat16, float16"),
        (["--device", "abacus"], "none of cpu, cuda"),
    ],
)
def test_an_unknown_dtype_or_device_is_an_error(tmp_path: Path, arguments: list[str], what: str):
    ran = s2e("extract", "--model", LLAMA / "model", "--examples", LLAMA / "examples.jsonl", "--out", tmp_path / "d", *arguments)
    assert ran.status == 1
    assert ran.err.startswith("ModelError: ")
    assert what in ran.err
    assert "Traceback" not in ran.err
    assert listing(tmp_path) == {}


@needs_parity
@pytest.mark.parametrize("command", ["run", "extract"])
def test_the_current_folder_as_out_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str):
    monkeypatch.chdir(tmp_path)
    ran = s2e(command, "--model", LLAMA / "model", "--examples", LLAMA / "examples.jsonl", "--out", ".")
    assert ran.status in (0, 1)


# extract, attribute, edit, export on the tiny llama of the golden results


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directions and the edit of the first golden setting, made by the commands once; gives their paths by name."""
    folder = tmp_path_factory.mktemp("made")
    model = ("--model", LLAMA / "model")
    printed = {
        "extract": done("extract", *model, "--examples", LLAMA / "examples.jsonl", "--out", folder / "directions"),
        "edit": done(
            *("edit", *model, "--directions", folder / "directions", "--out", folder / "edit"),
            *("--rho-attn", 0.2, "--rho-mlp", 0.4, "--alpha", 0.8),
        ),
    }
    for name, text in printed.items():
        (folder / f"{name}.printed").write_text(text, encoding="utf-8")
    return folder.joinpath


@needs_parity
def test_extract_writes_directions_that_say_how_they_were_made(made: Callable[..., Path]):
    found = load(made("directions"), Directions)
    golden = load_file(LLAMA / "directions.safetensors")
    for site in SITES:
        for layer, vector in enumerate(found[site].vectors):
            assert_close(vector, golden[f"output.direction.{site}.{layer}"], atol=1e-6, rtol=0)
    inputs = f"--model {LLAMA / 'model'} --examples {LLAMA / 'examples.jsonl'}"
    assert found.provenance.command == f"s2e-lens extract {inputs} --out {made('directions')}"
    printed = made("extract.printed").read_text(encoding="utf-8")
    assert "12 positive and 12 negative examples" in " ".join(printed.split())
    norms = [line.split() for line in printed.splitlines() if line[:1].isdigit()]
    assert norms == [
        [str(layer), f"{found.attn.norm[layer]:.4g}", f"{found.mlp.norm[layer]:.4g}"] for layer in range(len(found.attn.norm))
    ]
    assert sorted(path.name for path in made().iterdir()) == ["directions", "edit", "edit.printed", "extract.printed"]


@needs_parity
def test_attribute_prints_the_top_and_writes_all_scores_in_either_form(made: Callable[..., Path], tmp_path: Path):
    call = ("attribute", "--model", LLAMA / "model", "--directions", made("directions"))
    printed = done(*call, "--top", 7, "--out", tmp_path / "scores.csv")
    done(*call, "--out", tmp_path / "scores.safetensors")
    table, scores = pd.read_csv(tmp_path / "scores.csv"), load(tmp_path / "scores.safetensors", Attribution)
    assert list(table) == ["label", "site", "layer", "index", "cosine"]
    assert (len(scores.heads), len(table)) == (3, 3 * 4 + 3 * 80)
    for row in table.itertuples():
        assert row.label == f"L{row.layer}{'H' if row.site == 'attn' else 'N'}{row.index}"
        assert row.cosine == float(scores[row.site][row.layer, row.index])
    largest = table.loc[table["cosine"].abs().sort_values(ascending=False, kind="stable").index[:7]]
    rows = [line.split() for line in printed.splitlines() if line[:1].isdigit()]
    assert [row[1] for row in rows] == list(largest["label"])
    assert [row[3] for row in rows] == [f"{value:+.4f}" for value in largest["cosine"]]


@needs_parity
def test_attribute_can_show_one_site_and_another_score(made: Callable[..., Path], tmp_path: Path):
    call = ("attribute", "--model", LLAMA / "model", "--directions", made("directions"), "--out", tmp_path / "scores.csv")
    printed = done(*call, "--site", "attn", "--score", "contrast")
    labels = [line.split()[1] for line in printed.splitlines() if line[:1].isdigit()]
    assert sorted(labels) == [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    sums = pd.read_csv(tmp_path / "scores.csv").groupby(["site", "layer"])["contrast"].sum()
    found = load(made("directions"), Directions)
    for site in SITES:  # the contrast of a site's components adds up to ‖v‖
        assert_close(torch.tensor(sums[site].to_list()), found[site].norm, atol=1e-5, rtol=1e-5, check_dtype=False)


@needs_parity
def test_edit_prints_what_the_golden_setting_edits(made: Callable[..., Path]):
    (setting,) = [each for each in json.loads((LLAMA / "grid.json").read_text()) if each["index"] == 0]
    printed = made("edit.printed").read_text(encoding="utf-8")
    assert f"{setting['n_heads']} of 12" in printed
    assert f"{setting['n_neurons']} of 240" in printed
    found = load(made("edit"), Edit)
    assert (found.count("attn"), found.count("mlp")) == (setting["n_heads"], setting["n_neurons"])
    assert found.provenance.settings["rho_mlp"] == 0.4


@needs_parity
@pytest.mark.parametrize(
    ("options", "counts"),
    [(["--rho-mlp", "0.4", "--alpha", "0.8"], (0, 21)), (["--heads", "3", "--alpha", "0.5"], (3, 0)), (["--dose", "0.5"], None)],
)
def test_an_edit_is_planned_as_the_options_say(
    made: Callable[..., Path], tmp_path: Path, options: list[str], counts: tuple[int, int] | None
):
    printed = done("edit", "--model", LLAMA / "model", "--directions", made("directions"), "--out", tmp_path / "edit", *options)
    found = load(tmp_path / "edit", Edit)
    if counts is not None:
        assert (found.count("attn"), found.count("mlp")) == counts
    else:
        doses = [line.split()[-1] for line in printed.splitlines() if line.startswith(SITES)]
        assert doses == ["0.500", "0.500"]


@needs_parity
@pytest.mark.parametrize("options", [["--alpha", "1"], ["--rho-attn", "-0.2"], ["--heads", "13", "--alpha", "0.5"]])
def test_an_edit_that_cannot_be_planned_writes_nothing(made: Callable[..., Path], tmp_path: Path, options: list[str]):
    ran = s2e("edit", "--model", LLAMA / "model", "--directions", made("directions"), "--out", tmp_path / "edit", *options)
    assert ran.status == 1
    assert ran.err.splitlines()[-1].startswith("PlanError: ")
    assert listing(tmp_path) == {}


@needs_parity
def test_directions_of_other_weights_are_refused_unless_forced(made: Callable[..., Path], tmp_path: Path):
    done("export", "--model", LLAMA / "model", "--edit", made("edit"), "--out", tmp_path / "other")
    scores = tmp_path / "scores.csv"
    call = ("attribute", "--model", tmp_path / "other", "--directions", made("directions"), "--top", 1, "--out", scores)
    ran = s2e(*call)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.splitlines()[-1].startswith("MismatchError: ")
    assert not scores.exists()
    assert "cosine score" in done(*call, "--force")
    assert scores.exists()


def golden_logits(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A model's logits on the golden input, and the golden ones: of the first setting, and unedited."""
    expected = load_file(LLAMA / "expected.safetensors")
    with torch.no_grad():
        return model.eval()(input_ids=expected["input_ids"]).logits, expected["logits.0"], expected["logits.base"]


@needs_parity
def test_export_writes_a_checkpoint_that_is_the_golden_edited_model(made: Callable[..., Path], tmp_path: Path):
    call = ("export", "--model", LLAMA / "model", "--edit", made("edit"))
    printed = done(*call, "--out", tmp_path / "hf")
    assert f"Checkpoint: {tmp_path / 'hf'}" in printed
    found, edited, base = golden_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32))
    assert_close(found, edited, atol=2e-4, rtol=0)
    assert (found - base).abs().max() > 1
    before = listing(tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {Path(name).name for name in before}
    assert "exists and is not empty" in refusal("ExportError", *call, "--out", tmp_path / "hf")
    assert listing(tmp_path) == before


@needs_parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
def test_export_writes_an_adapter_that_is_the_golden_edited_model(made: Callable[..., Path], tmp_path: Path):
    peft = pytest.importorskip("peft")
    call = ("export", "--model", LLAMA / "model", "--edit", made("edit"), "--format", "lora", "--out", tmp_path / "lora")
    assert f"LoRA adapter of rank 1: {tmp_path / 'lora'}" in done(*call)
    plain = AutoModelForCausalLM.from_pretrained(LLAMA / "model", dtype=torch.float32)
    found, edited, base = golden_logits(peft.PeftModel.from_pretrained(plain, tmp_path / "lora"))
    assert_close(found, edited, atol=2e-4, rtol=0)
    assert (found - base).abs().max() > 1


# run


def run_stories(out: Path, *options: object) -> str:
    return done("run", "--model", STORIES, "--examples", HAPPY_SAD, "--strength", 1, "--out", out, *options)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and on a busy machine lose much to waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_stories
@pytest.mark.usefixtures("_one_thread")
def test_run_writes_the_whole_report_and_the_same_bytes_again(tmp_path: Path):
    out = tmp_path / "report"
    printed = run_stories(out)
    first = listing(tmp_path)
    assert set(first) == {f"report/{name}" for name in REPORT_FILES}, "and nothing half done beside it"
    conditions = list(pd.read_csv(out / "measurements.csv")["condition"])
    assert conditions == ["unedited", "edit", "edit, λ × 0.5", "steering 1"]
    assert all(name in printed for name in ("unedited", "edit", "steering 1", "response margin"))
    assert f"Report: {out / 'report.html'}" in printed
    assert "…" not in printed, "no number is cut off, however narrow the terminal"
    edit = load(out / "edit.safetensors", Edit)
    assert edit.provenance.command == f"s2e-lens run --model {STORIES} --examples {HAPPY_SAD} --strength 1 --out {out}"
    (behavior,) = json.loads(first["report/summary.json"])["behaviors"].values()
    assert (behavior["edit"]["heads"], behavior["edit"]["neurons"]) == (edit.count("attn"), edit.count("mlp"))

    run_stories(out)
    second = listing(tmp_path)
    assert [name for name in first if first[name] != second.get(name)] == []
    vectors = load(out / "directions.safetensors", Directions).attn.vectors
    run_stories(out, "--seed", 1)
    assert set(listing(tmp_path)) == set(first)
    others = load(out / "directions.safetensors", Directions).attn.vectors
    assert not torch.equal(vectors, others), "another seed sets other prompts aside"


@needs_parity
def test_an_input_is_not_overwritten_and_a_strong_plan_is_warned_of(tmp_path: Path):
    found = tmp_path / "directions.safetensors"
    base = ("--model", LLAMA / "model", "--directions", found)
    done("extract", "--model", LLAMA / "model", "--examples", LLAMA / "examples.jsonl", "--out", found)
    before = found.read_bytes()
    refused = s2e("edit", *base, "--out", found)
    assert refused.status == 1
    assert "is the input as well" in refused.err
    assert found.read_bytes() == before
    assert "strong edit" in s2e("edit", *base, "--dose", 30, "--out", tmp_path / "edit.safetensors").err
    assert "strong edit" not in s2e("edit", *base, "--dose", 1, "--out", tmp_path / "edit.safetensors").err
    refused = s2e("attribute", *base, "--out", tmp_path / "scores.txt")
    assert refused.status == 1
    assert ".csv or .safetensors" in refused.err


def test_a_binary_file_of_examples_is_named_as_such(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    refused = s2e("extract", "--model", "demo", "--examples", tmp_path / "x.safetensors", "--out", tmp_path / "d.safetensors")
    assert refused.status == 1
    assert "binary file" in refused.err
