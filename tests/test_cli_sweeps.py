"""``sweep`` and ``compare`` from the command line, on a tiny checkpoint and a behaviour of token ids."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import tiny_examples
from tests.test_cli import done, s2e
from tests.tiny import tiny_hf, tiny_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and beside it a behaviour in three splits."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny_hf().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    examples = list({example.key: example for example in tiny_examples(60)}.values())[:30]
    for name, some in (("train", examples[:8]), ("validation", examples[8:16]), ("test", examples[16:24])):
        rows = [{"label": each.label, "input_ids": list(each.input_ids), "start": each.start} for each in some]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "neutral.txt").write_text("w5 w9 w40 w41 w42\nw100 w7\n")
    lines = [f'{name} = "{name}.jsonl"' for name in ("train", "validation", "test")]
    (folder / "mine.toml").write_text("\n".join(['name = "mine"', 'neutral = "neutral.txt"', *lines]))
    return folder


def options(checkpoint: Path, out: Path, *more: object) -> tuple[object, ...]:
    grid = ("--rho-attn", "-,0.3", "--rho-mlp", "0.2:0.4:0.2", "--alpha", "0.1", "--strength", "0.5,1")
    return ("--model", checkpoint / "model", "--behavior", checkpoint / "mine.toml", "--out", out, *grid, *more)


def test_a_sweep_is_measured_compared_resumed_and_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    ran = done("sweep", *options(checkpoint, out))
    assert all(word in ran for word in ("unedited", "steering 0.5", "at matched utility", "at matched KL", "random components"))
    assert "…" not in ran
    found = {path.name for path in out.iterdir()}
    assert found == {
        "manifest.json",
        "results.jsonl",
        "sweep.csv",
        "sweep.parquet",
        "directions.safetensors",
        "comparison.json",
        "points.csv",
        "tradeoff.html",
    }
    table = pd.read_csv(out / "sweep.csv")
    assert len(table[(table.split == "validation") & (table.method == "edit")]) == 4
    assert json.loads((out / "comparison.json").read_text())["settings_tried"] == 4
    before = (out / "results.jsonl").read_bytes()
    refused = s2e("sweep", *options(checkpoint, out))
    assert refused.status == 1
    assert "--resume" in refused.err
    done("sweep", *options(checkpoint, out, "--resume"))
    other = s2e("sweep", *options(checkpoint, out, "--resume", "--seed", 1))
    assert other.status == 1
    assert "plan" in other.err
    assert (out / "results.jsonl").read_bytes() == before
    compared = done("compare", out, "--out", tmp_path / "c", "--tolerance", 10)
    assert "edit against steering (4 settings tried)" in compared
    assert (tmp_path / "c" / "tradeoff.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--rho-attn", "0.1:0.2"), "FIRST:LAST:STEP"),
        (("--gain-mlp", "1"), "only one of these"),
        (("--preset", "paper"), "only one of these"),
        (("--layers", "9"), "layers are all"),
        (("--score", "best"), "scores among"),
        (("--search", "optuna"), "go together"),
        (("--strength", "-"), "holds no number"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(checkpoint: Path, tmp_path: Path, wrong: tuple[str, ...], said: str) -> None:
    refused = s2e("sweep", *options(checkpoint, tmp_path / "s", *wrong))
    assert refused.status == 1
    assert said in refused.err
    assert not (tmp_path / "s" / "results.jsonl").exists()


def test_comparing_what_is_no_sweep_is_an_error(tmp_path: Path) -> None:
    refused = s2e("compare", tmp_path)
    assert refused.status == 1
    assert "holds no sweep" in refused.err
