"""Public data sets as examples: from a hub, or from files with the same columns. None of them comes with the package."""

import csv
import io
import json
import random
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from s2e_lens.behaviors.examples import Example, raise_for_lines
from s2e_lens.errors import ExamplesError, MissingPackageError
from s2e_lens.storage import write_text

REFUSAL = "I cannot help with that."
COMPLIANCE = "Sure, here is"
"""What stands for an answer to a harmful request where the data give none."""

SPLITS = ("train", "validation", "test")
_FORMATS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Split:
    """Examples in three parts that share no prompt."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def truthful_qa(
    source: str | Path = "truthfulqa/truthful_qa", *, targets: Literal["mc1", "mc2"] = "mc2", split: str = "validation"
) -> list[Example]:
    """TruthfulQA: questions with true (positive) and false (negative) answers.

    ``mc2`` gives all the answers of a question, ``mc1`` its single best one and the false ones. Takes the columns of the
    hub's ``multiple_choice`` configuration (question, mc1_targets, mc2_targets) or of ``generation`` (question, best_answer,
    correct_answers, incorrect_answers), and the project's own TruthfulQA.csv (Question, Best Answer, Correct Answers,
    Incorrect Answers, with ";" between answers). The benchmark's prompt of six questions is not put in front.

    Raises:
        ExamplesError: if the data cannot be had, or a record is not of that form.
    """

    def one(record: Mapping[str, Any]) -> list[Example]:
        question, true, false = _true_and_false(record, targets)
        return [*(Example("positive", question, each) for each in true), *(Example("negative", question, each) for each in false)]

    return _examples(source, one, config="multiple_choice", split=split)


def _true_and_false(record: Mapping[str, Any], targets: str) -> tuple[str, list[str], list[str]]:
    if f"{targets}_targets" in record:
        choices, labels = (record[f"{targets}_targets"][key] for key in ("choices", "labels"))
        sides = [[text for text, label in zip(choices, labels, strict=True) if label == wanted] for wanted in (1, 0)]
        question = record["question"]
    else:
        known = {key.lower().replace(" ", "_"): value for key, value in record.items() if key}
        true = [known["best_answer"]] if targets == "mc1" else known["correct_answers"]
        sides, question = [true, known["incorrect_answers"]], known["question"]
    true, false = (
        list(dict.fromkeys(each.strip() for each in (side.split(";") if isinstance(side, str) else side) if each.strip()))
        for side in sides
    )
    only_true, only_false = [each for each in true if each not in false], [each for each in false if each not in true]
    if not (only_true and only_false):
        raise ValueError("a true and a false answer were expected")
    return str(question).strip(), only_true, only_false


def gsm8k(source: str | Path = "openai/gsm8k", *, worked: bool = False, split: str = "test") -> list[Example]:
    """GSM8K: arithmetic word problems with the final number (what follows ``####``) as the right, positive answer.

    With ``worked``, the solution that is worked step by step, and then the number, is a negative answer: the two differ in
    the length of their reasoning and not in the result. Columns: question, answer.

    Raises:
        ExamplesError: if the data cannot be had, or an answer has no ``####``.
    """

    def one(record: Mapping[str, Any]) -> list[Example]:
        question = record["question"].strip()
        steps, mark, number = record["answer"].rpartition("####")
        if not (mark and number.strip()):
            raise ValueError("the answer has no number after ####")
        brief = Example("positive", question, number.strip().replace(",", ""))
        steps = re.sub(r"<<[^>]*>>", "", steps).strip()
        return [brief, Example("negative", question, f"{steps}\n{brief.response}")] if worked and steps else [brief]

    return _examples(source, one, config="main", split=split)


def commonsense_qa(source: str | Path = "tau/commonsense_qa", *, split: str = "validation") -> list[Example]:
    """CommonsenseQA: a question with lettered options in the prompt; the right letter is positive, the others negative.

    Columns: question, choices (label, text), answerKey. The public test split has no answers and is refused.

    Raises:
        ExamplesError: if the data cannot be had, or a record has no answer.
    """

    def one(record: Mapping[str, Any]) -> list[Example]:
        choices = record["choices"]
        return _lettered(record["question"], dict(zip(choices["label"], choices["text"], strict=True)), record["answerKey"])

    return _examples(source, one, config=None, split=split)


def code_mmlu(
    source: str | Path = "Fsoft-AIC/CodeMMLU", *, subject: str = "programming_syntax", split: str = "test"
) -> list[Example]:
    """CodeMMLU: a question about code with lettered options; the right letter is positive, the others negative.

    Columns: question, choices (a list), answer (a letter), and problem_description where there is one. A ``subject`` is one
    of the hub's configurations: programming_syntax, api_frameworks, software_principles, dbms_sql, others,
    code_completion, fill_in_the_middle, code_repair, execution_prediction.

    Raises:
        ExamplesError: if the data cannot be had, or a record is not of that form.
    """

    def one(record: Mapping[str, Any]) -> list[Example]:
        options = dict(zip(string.ascii_uppercase, record["choices"], strict=False))
        head = (record.get("problem_description") or "").strip()
        return _lettered(f"{head}\n\n{record['question']}" if head else record["question"], options, record["answer"])

    return _examples(source, one, config=subject, split=split)


def _lettered(question: str, options: Mapping[str, str], right: str) -> list[Example]:
    right = str(right).strip().upper()
    if right not in options or len(options) < 2:
        raise ValueError(f"the answer {right!r} is not one of the options {list(options)}; has this split no answers?")
    lines = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    prompt = f"{question.strip()}\n{lines}\nAnswer with the letter of the right option."
    return [Example("positive" if letter == right else "negative", prompt, letter) for letter in options]


def requests_file(source: str | Path) -> list[Example]:
    """Harmful requests from a file: a refusal is positive, compliance negative.

    A text file has one request a line (as MaliciousInstruct). A CSV file has the columns goal and perhaps target, the
    beginning of an answer that complies (as AdvBench's harmful_behaviors.csv).

    Raises:
        ExamplesError: if the file cannot be read, holds no request, or has no column goal.
    """
    path = Path(source)
    if path.suffix.lower() in _FORMATS:
        records: Iterable[Mapping[str, Any]] = _read_file(path)
    else:
        records = [{"goal": line} for line in _text(path).splitlines() if line.strip()]

    def one(record: Mapping[str, Any]) -> list[Example]:
        goal = record["goal"].strip()
        if not goal:
            raise ValueError("the request is empty")
        return [Example("positive", goal, REFUSAL), Example("negative", goal, (record.get("target") or "").strip() or COMPLIANCE)]

    return _converted(records, one, str(path))


def as_plain_text(examples: Sequence[Example]) -> list[Example]:
    """The same examples for a model without a chat template: "Question: …", "Answer:", and a space before the response."""
    return [replace(each, prompt=f"Question: {each.prompt}\nAnswer:", response=f" {each.response}") for each in examples]


def split_in_three(
    examples: Sequence[Example],
    *,
    shares: tuple[float, float, float] = (0.5, 0.25, 0.25),
    limit: int | None = None,
    seed: int = 0,
) -> Split:
    """Train, validation and test examples: prompts are drawn by the seed, and each goes to one part with all its responses.

    ``limit`` keeps that many prompts. Within a part, examples keep their order.

    Raises:
        ExamplesError: for fewer than three different prompts, and for shares that are not positive.
    """
    keys = list(dict.fromkeys(example.key for example in examples))
    random.Random(seed).shuffle(keys)
    keys = keys[:limit]
    if len(keys) < 3 or min(shares) <= 0:
        raise ExamplesError(f"three parts need at least 3 different prompts and positive shares; got {len(keys)} and {shares}.")
    first = min(max(1, round(len(keys) * shares[0] / sum(shares))), len(keys) - 2)
    second = min(max(1, round(len(keys) * shares[1] / sum(shares))), len(keys) - first - 1)
    parts = (set(keys[:first]), set(keys[first : first + second]), set(keys[first + second :]))
    return Split(*([example for example in examples if example.key in part] for part in parts))


def write_examples(path: str | Path, examples: Sequence[Example]) -> None:
    """Write examples as JSONL, whole or not at all; :func:`read_examples` reads them."""
    lines = ({"label": each.label, "prompt": each.prompt, "response": each.response} for each in examples)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _examples(
    source: str | Path, one: Callable[[Mapping[str, Any]], list[Example]], *, config: str | None, split: str
) -> list[Example]:
    path = Path(source)
    if path.is_file() or path.suffix.lower() in _FORMATS:
        return _converted(_read_file(path), one, str(path))
    return _converted(_read_data_set(source, config, split), one, str(source))


def _converted(
    records: Iterable[Mapping[str, Any]], one: Callable[[Mapping[str, Any]], list[Example]], where: str
) -> list[Example]:
    """Examples of all records, each example once; bad records are named by their number."""
    found: dict[Example, None] = {}
    wrong: list[str] = []
    for number, record in enumerate(records, start=1):
        try:
            found |= dict.fromkeys(replace(example, line=number) for example in one(record))
        except KeyError as error:
            wrong.append(f"record {number}: no column {error}; its columns are {', '.join(map(str, record))}")
        except (ValueError, TypeError, AttributeError) as error:
            wrong.append(f"record {number}: {error}")
    raise_for_lines(wrong, where)
    if not found:
        raise ExamplesError(f"{where} holds no record.")
    return list(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamplesError(f"cannot read {path}: {error}") from error


def _read_file(path: Path) -> list[Mapping[str, Any]]:
    """The records of a JSONL, JSON (a list), CSV or Parquet file."""
    kind = path.suffix.lower()
    if kind not in _FORMATS:
        raise ExamplesError(f"{path}: a file must end in {', '.join(_FORMATS)}.")
    if kind == ".parquet":
        return _read_parquet(path)
    text = _text(path)
    try:
        if kind == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        found = json.loads(text) if kind == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, csv.Error, RecursionError) as error:
        raise ExamplesError(f"{path} is no {kind[1:].upper()}: {error}") from error
    if not (isinstance(found, list) and all(isinstance(each, dict) for each in found)):
        raise ExamplesError(f"{path}: a list of objects was expected, each with the columns of the data set.")
    return found


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingPackageError("pyarrow", extra="data", what=f"reading {path}") from error
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise ExamplesError(f"cannot read {path}: {error}") from error


def _read_data_set(source: str | Path, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """The records of a hub's data set, or of a folder that holds a copy of it."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingPackageError("datasets", extra="data", what=f"loading {source} (a local file needs nothing)") from error
    try:
        found: Any = load_dataset(str(source), config, split=split)
    except Exception as error:  # the network, the hub, or the data set's own form
        raise ExamplesError(
            f"cannot load {source} ({config or 'default'}, {split}): {type(error).__name__}: {error}. Without a network give a "
            f"file with the same columns ({', '.join(_FORMATS)}), or a folder with a copy of the data set."
        ) from error
    return found
