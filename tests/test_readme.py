"""What the README shows is what runs."""

import re
import sys
from pathlib import Path

import pytest

from s2e_lens.behaviors import load_behavior, tokenize_examples
from s2e_lens.behaviors.behavior import Metric
from tests.tiny import tiny_model

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block(holds: str) -> str:
    """The only Python of the README that holds some words."""
    (found,) = [each for each in blocks("python") if holds in each]
    return found


def test_links_and_pictures_of_the_readme_are_there() -> None:
    root = Path(__file__).resolve().parents[1]
    linked = re.findall(r"\]\((?!https?:)([^)]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert len(linked) > 10
    assert [each for each in linked if not (root / each).exists()] == []


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block("s2e.collect_means"), "README.md", "exec"), names)
    names["other_directions"] = names["directions"]
    exec(compile(block("ablated(model, other_directions)"), "README.md", "exec"), names)
    exec(compile(block("save_figures").replace('("png", "pdf")', '("html",)'), "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"L\d+[HN]\d+ [+-]0\.\d{3}", printed[0])
    assert len(printed) == 7
    assert (tmp_path / "edit.safetensors").is_file()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["heads.html", "tokens.html"]


def test_the_behaviour_of_the_readme_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "metrics", raising=False)
    (tmp_path / "metrics.py").write_text(block("def measure"))
    (tmp_path / "cheerful.toml").write_text(blocks("toml")[0])
    for name, someone in (("train", "Tom"), ("validation", "Ann"), ("test", "Ben"), ("copying", "Cleo")):
        (tmp_path / f"{name}.jsonl").write_text(blocks("json")[0].replace("Tom", someone))
    (tmp_path / "neutral.txt").write_text("The shop is open.")
    behavior = load_behavior(tmp_path / "cheerful.toml")
    assert isinstance(behavior.attribute, Metric)
    assert len(behavior.train) == len(behavior.validation) == len(behavior.test) == 2
    assert [task.name for task in behavior.utility] == ["copying"]
    model = tiny_model()
    found = behavior.attribute.measure(model, tokenize_examples(model, behavior.test))
    assert len(found) == 1
    assert str(tmp_path) not in sys.path
