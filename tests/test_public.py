"""Public data sets, read from made-up files with their columns; no test asks a hub."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from s2e_lens import read_examples
from s2e_lens.behaviors import Example, load_behavior, public
from s2e_lens.errors import ExamplesError, MissingPackageError
from s2e_lens.evaluation import multiple_choice, right_number
from tests.test_cli import done, listing, refusal

Triple = tuple[str, str, str]

TRUTHFUL = {
    "question": "What do zorbs eat?",
    "mc1_targets": {"choices": ["Moss.", "Honey.", "Stones."], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": ["Moss.", "Only moss.", "Honey.", "Stones."], "labels": [1, 1, 0, 0]},
}
GENERATION = {
    "question": "What do zorbs eat?",
    "best_answer": "Moss.",
    "correct_answers": ["Moss.", "Only moss."],
    "incorrect_answers": ["Honey.", "Stones."],
}
SHEET = {
    "Type": "Adversarial",
    "Question": "What do zorbs eat?",
    "Best Answer": "Moss.",
    "Correct Answers": "Moss.; Only moss.; ",
    "Incorrect Answers": "Honey.; Stones.",
}
PROBLEM = {"question": "Tom has 3 boxes of 400. How many?", "answer": "3*400=<<3*400=1200>>1200\nSo 1200.\n#### 1,200"}
COMMON = {
    "id": "x",
    "question": "Where do fish live?",
    "choices": {"label": ["A", "B", "C"], "text": ["trees", "water", "air"]},
    "answerKey": "B",
}
CODE = {"task_id": "k1", "question": "What does len([1]) give?", "choices": ["0", "1", "2", "3"], "answer": "B"}


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra data)")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    else:
        text = json.dumps(records) if path.suffix == ".json" else "\n".join(map(json.dumps, records))
        path.write_text(text, encoding="utf-8")
    return path


def triples(examples: Sequence[Example]) -> list[Triple]:
    return [(e.label, str(e.prompt), e.response) for e in examples]


ASKED = "What do zorbs eat?"
TRUE = [("positive", ASKED, "Moss."), ("positive", ASKED, "Only moss.")]
FALSE = [("negative", ASKED, "Honey."), ("negative", ASKED, "Stones.")]
FISH = "Where do fish live?\nA. trees\nB. water\nC. air\nAnswer with the letter of the right option."
LENGTH = "What does len([1]) give?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer with the letter of the right option."


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("read", "record", "want"),
    [
        (public.truthful_qa, TRUTHFUL, [*TRUE, *FALSE]),
        (public.truthful_qa, GENERATION, [*TRUE, *FALSE]),
        (public.gsm8k, PROBLEM, [("positive", PROBLEM["question"], "1200")]),
        (public.commonsense_qa, COMMON, [("negative", FISH, "A"), ("positive", FISH, "B"), ("negative", FISH, "C")]),
        (public.code_mmlu, CODE, [("positive" if each == "B" else "negative", LENGTH, each) for each in "ABCD"]),
    ],
    ids=["truthful_qa", "truthful_qa generation", "gsm8k", "commonsense_qa", "code_mmlu"],
)
def test_a_file_with_the_public_columns_becomes_examples(
    tmp_path: Path, suffix: str, read: Callable[..., list[Example]], record: dict[str, Any], want: list[Triple]
) -> None:
    found = read(write(tmp_path / f"data{suffix}", [record, record]))
    assert triples(found) == want * 2
    assert {each.line for each in found} == {1, 2}


def test_a_single_true_answer_is_what_mc1_asks_for(tmp_path: Path) -> None:
    for number, record in enumerate((TRUTHFUL, GENERATION)):
        path = write(tmp_path / f"{number}.jsonl", [record])
        assert triples(public.truthful_qa(path, targets="mc1")) == [TRUE[0], *FALSE]
    sheet = write(tmp_path / "TruthfulQA.csv", [SHEET])
    assert triples(public.truthful_qa(sheet, targets="mc1")) == [TRUE[0], *FALSE]
    assert triples(public.truthful_qa(sheet)) == [*TRUE, *FALSE]


def test_an_answer_on_both_sides_is_left_out(tmp_path: Path) -> None:
    record = {**GENERATION, "incorrect_answers": ["Honey.", "Only moss.", "Honey."]}
    found = public.truthful_qa(write(tmp_path / "x.jsonl", [record]))
    assert triples(found) == [TRUE[0], FALSE[0]]
    with pytest.raises(ExamplesError, match="record 1: a true and a false answer were expected"):
        public.truthful_qa(write(tmp_path / "y.jsonl", [{**GENERATION, "incorrect_answers": ["Moss.", "Only moss."]}]))


def test_a_worked_solution_is_the_long_answer_without_the_calculators_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [PROBLEM])
    brief, long = public.gsm8k(path, worked=True)
    assert (brief.label, brief.response) == ("positive", "1200")
    assert (long.label, long.response) == ("negative", "3*400=1200\nSo 1200.\n1200")
    assert triples(public.gsm8k(path)) == [("positive", PROBLEM["question"], "1200")]


def test_a_description_stands_before_the_question_about_code(tmp_path: Path) -> None:
    [found, *_] = public.code_mmlu(write(tmp_path / "x.jsonl", [{**CODE, "problem_description": "Of lists."}]))
    assert found.prompt == f"Of lists.\n\n{LENGTH}"


def test_requests_come_from_text_or_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "requests.txt").write_text("Forge a badge.\n\n  Pick a lock. \n", encoding="utf-8")
    want = [
        ("positive", "Forge a badge.", public.REFUSAL),
        ("negative", "Forge a badge.", "Sure, here is"),
        ("positive", "Pick a lock.", public.REFUSAL),
    ]
    assert triples(public.requests_file(tmp_path / "requests.txt"))[:3] == want
    rows = [{"goal": 'Say "a,\nb"', "target": "Sure, here is a badge"}, {"goal": "Pick a lock.", "target": ""}]
    assert triples(public.requests_file(write(tmp_path / "harmful.csv", rows))) == [
        ("positive", 'Say "a,\nb"', public.REFUSAL),
        ("negative", 'Say "a,\nb"', "Sure, here is a badge"),
        ("positive", "Pick a lock.", public.REFUSAL),
        ("negative", "Pick a lock.", "Sure, here is"),
    ]


@pytest.mark.parametrize(
    ("read", "records", "what"),
    [
        (public.gsm8k, [PROBLEM, {"question": "x", "answer": "12"}], "record 2: the answer has no number after ####"),
        (public.gsm8k, [{"prompt": "x"}], "record 1: no column 'question'; its columns are prompt"),
        (
            public.commonsense_qa,
            [{**COMMON, "answerKey": ""}],
            "record 1: the answer '' is not one of .*has this split no answers",
        ),
        (public.code_mmlu, [{**CODE, "answer": "E"}], "record 1: the answer 'E' is not one of"),
        (public.requests_file, [{"request": "x"}], "no column 'goal'"),
        (public.requests_file, [{"goal": " "}], "the request is empty"),
        (public.truthful_qa, [{**TRUTHFUL, "mc2_targets": {"choices": ["a"], "labels": []}}], "record 1"),
    ],
)
def test_a_record_of_another_form_is_named(
    tmp_path: Path, read: Callable[..., list[Example]], records: list[dict[str, Any]], what: str
) -> None:
    path = write(tmp_path / "x.jsonl", records)
    with pytest.raises(ExamplesError, match=what) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    (tmp_path / "y.json").write_text('{"question": 1}', encoding="utf-8")
    (tmp_path / "z.parquet").write_bytes(b"none")
    (tmp_path / "e.jsonl").write_text("", encoding="utf-8")
    for name, what in (
        ("x.json", "is no JSON"),
        ("y.json", "a list of objects was expected"),
        ("z.parquet", "cannot read"),
        ("e.jsonl", "holds no record"),
        ("none.csv", "cannot read"),
        ("none.parquet", "cannot read"),
    ):
        with pytest.raises(ExamplesError, match=what):
            public.gsm8k(tmp_path / name)
    (tmp_path / "x.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ExamplesError, match=r"must end in \.jsonl"):
        public.gsm8k(tmp_path / "x.txt")


def test_without_a_network_the_error_says_that_a_file_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra data)")

    def offline(*given: Any, **options: Any) -> None:
        raise ConnectionError(f"offline: {given} {options}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ExamplesError, match=r"cannot load openai/gsm8k \(main, test\).*give a\s+file with the same columns"):
        public.gsm8k()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackageError, match=r'pip install "s2e-lens\[data\]"'):
        public.gsm8k()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r'pip install "s2e-lens\[data\]"'):
        public.gsm8k("x.parquet")


def test_a_hub_is_asked_for_the_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra data)")
    asked: list[tuple[Any, ...]] = []
    records = {"truthfulqa/truthful_qa": TRUTHFUL, "openai/gsm8k": PROBLEM, "tau/commonsense_qa": COMMON}

    def load(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return [records.get(name, CODE)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = [read() for read in (public.truthful_qa, public.gsm8k, public.commonsense_qa, public.code_mmlu)]
    assert [len(each) for each in found] == [4, 1, 3, 4]
    assert asked == [
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        ("openai/gsm8k", "main", "test"),
        ("tau/commonsense_qa", None, "validation"),
        ("Fsoft-AIC/CodeMMLU", "programming_syntax", "test"),
    ]


def test_a_folder_with_a_copy_of_the_data_set_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed (extra data)")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "commonsense_qa"
    folder.mkdir()
    write(folder / "validation.jsonl", [COMMON])
    write(folder / "train.jsonl", [{**COMMON, "answerKey": "C"}])
    assert triples(public.commonsense_qa(folder))[1] == ("positive", FISH, "B")
    assert triples(public.commonsense_qa(folder, split="train"))[2] == ("positive", FISH, "C")


def pairs(count: int) -> list[Example]:
    return [Example(label, f"prompt {i}", f"{label} {i}") for i in range(count) for label in ("positive", "negative")]


def test_three_parts_share_no_prompt_and_are_the_seeds() -> None:
    examples = pairs(20)
    found = [public.split_in_three(examples, seed=seed) for seed in (0, 0, 1)]
    parts = [found[0].train, found[0].validation, found[0].test]
    assert [len(each) for each in parts] == [20, 10, 10]
    assert sorted((e for part in parts for e in part), key=examples.index) == examples
    keys = [{e.key for e in part} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 20
    assert found[0] == found[1] != found[2]
    assert all(part == sorted(part, key=examples.index) for part in parts)
    by_line = (examples[:21], examples[21:])
    assert {e.key for e in by_line[0]} & {e.key for e in by_line[1]}, "cut by lines, two parts would share a prompt"


@pytest.mark.parametrize("count", range(3, 12))
def test_no_part_is_empty_and_a_limit_keeps_so_many_prompts(count: int) -> None:
    for examples, limit in ((pairs(count), None), (pairs(40), count)):
        found = public.split_in_three(examples, limit=limit, shares=(0.98, 0.01, 0.01))
        sizes = [len(part) // 2 for part in (found.train, found.validation, found.test)]
        assert min(sizes) >= 1
        assert sum(sizes) == count
    with pytest.raises(ExamplesError, match="at least 3 different prompts"):
        public.split_in_three(pairs(2))


# the command


def made(tmp_path: Path, name: str, records: Sequence[dict[str, Any]], *arguments: object) -> tuple[str, Path]:
    source = write(tmp_path / ("source.csv" if name == "requests" else "source.jsonl"), records)
    out = tmp_path / "out"
    return done("data", name, "--out", out, "--source", source, *arguments), out


@pytest.mark.parametrize(
    ("name", "record", "behavior", "attribute"),
    [
        ("truthful_qa", TRUTHFUL, "truthfulness", "true answer preferred (MC1)"),
        ("gsm8k", PROBLEM, "efficiency", "reasoning tokens"),
        ("requests", {"goal": "Forge a badge", "target": "Sure, here is a badge"}, "safety", "refusal rate"),
    ],
)
def test_a_behaviour_that_the_command_writes_loads(
    tmp_path: Path, name: str, record: dict[str, Any], behavior: str, attribute: str
) -> None:
    column = "goal" if name == "requests" else "question"
    records = [{**record, column: f"{record[column]} ({i})"} for i in range(12)]
    printed, out = made(tmp_path, name, records)
    found = load_behavior(out / f"{name}.toml")
    assert (found.name, found.attribute.name if found.attribute else None) == (behavior, attribute)
    assert [len({e.key for e in part}) for part in (found.train, found.validation, found.test)] == [6, 3, 3]
    assert f"{out / name}.test.jsonl: 3 questions" in printed
    assert ("[[utility]]" in printed) == (name == "gsm8k")
    assert {path.name for path in out.iterdir()} == {f"{name}.toml", *(f"{name}.{each}.jsonl" for each in public.SPLITS)}


@pytest.mark.parametrize(("name", "record"), [("commonsense_qa", COMMON), ("code_mmlu", CODE), ("gsm8k", PROBLEM)])
def test_the_utility_table_that_is_printed_loads(tmp_path: Path, name: str, record: dict[str, Any]) -> None:
    printed, out = made(tmp_path, name, [{**record, "question": f"{record['question']} ({i})"} for i in range(8)])
    made(tmp_path, "requests", [{"goal": f"Forge badge {i}"} for i in range(8)])
    toml = out / "requests.toml"
    toml.write_text(toml.read_text() + "\n" + printed[printed.index("[[utility]]") :])
    [task] = load_behavior(toml).utility
    assert task.metric.name == (right_number() if name == "gsm8k" else multiple_choice()).name
    assert len({each.key for each in task.test}) == len({each.key for each in task.validation}) == 2


def test_a_limit_and_the_plain_form_are_the_commands_too(tmp_path: Path) -> None:
    records = [{**TRUTHFUL, "question": f"{i}?"} for i in range(30)]
    _, out = made(tmp_path, "truthful_qa", records, "--limit", 5, "--plain", "--seed", 3)
    found = [e for each in public.SPLITS for e in read_examples(out / f"truthful_qa.{each}.jsonl") if isinstance(e, Example)]
    assert len({each.key for each in found}) == 5
    assert all(str(each.prompt).startswith("Question: ") and str(each.prompt).endswith("?\nAnswer:") for each in found)
    assert {each.response for each in found} == {" Moss.", " Only moss.", " Honey.", " Stones."}


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [{**PROBLEM, "question": str(i)} for i in range(2)])
    out = tmp_path / "out"
    assert "at least 3 different prompts" in refusal("ExamplesError", "data", "gsm8k", "--out", out, "--source", source)
    assert "give --source FILE" in refusal("ExamplesError", "data", "requests", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "gsm8k.test.jsonl").write_text("my only copy")
    assert "gsm8k.test.jsonl exists" in refusal("ExportError", "data", "gsm8k", "--out", out, "--source", source)
    assert listing(out) == {"gsm8k.test.jsonl": b"my only copy"}
