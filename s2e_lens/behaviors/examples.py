"""Contrastive examples: reading them from JSONL, and setting some aside."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2e_lens.errors import ExamplesError

Label = Literal["positive", "negative"]
LABELS: tuple[Label, Label] = ("positive", "negative")


@dataclass(frozen=True)
class Example:
    """A prompt and a response that shows the behaviour (positive) or its opposite (negative)."""

    label: Label
    prompt: str | tuple[dict[str, str], ...]
    response: str
    line: int = 0

    @property
    def key(self) -> str:
        """What examples must share to be kept on one side of a split: the prompt (a string is one user message)."""
        return json.dumps([{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt)


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of prompt + response; the response is ``input_ids[start:]``."""

    label: Label
    input_ids: tuple[int, ...]
    start: int
    line: int = 0
    cut: int = 0
    """How many tokens were left out to fit the model's context."""

    @property
    def key(self) -> str:
        """What examples must share to be kept on one side of a split: the prompt's tokens."""
        return json.dumps(self.input_ids[: self.start])


AnyExample = Example | TokenizedExample


def read_examples(path: str | Path, *, contrastive: bool = True) -> list[AnyExample]:
    """Read a JSONL file of examples. With ``contrastive=False`` one class may be missing, as in a task's references.

    One object a line, either ``{"label": "positive"|"negative", "prompt": str | [message, …], "response": str}`` or
    ``{"label", "input_ids": [int, …], "start": int}``; a message is ``{"role": str, "content": str}``. Empty lines are
    passed over.

    Raises:
        ExamplesError: naming every bad line (the first ten) and what is wrong with it, or the class that is missing.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ExamplesError(f"cannot read {path}: {error}") from error
    if b"\0" in raw[:4096]:
        raise ExamplesError(f"{path} is a binary file; JSONL was expected, one example a line.")
    found: list[AnyExample] = []
    wrong: list[str] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(parse_example(json.loads(line.decode("utf-8")), line=number))
        except UnicodeDecodeError as error:
            wrong.append(f"line {number}: not UTF-8 ({error.reason} at byte {error.start})")
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and nesting without end
            wrong.append(f"line {number}: not JSON ({error})")
        except ExamplesError as error:
            wrong.append(f"line {number}: {error}")
    raise_for_lines(wrong or _contradictions(found), str(path))
    if contrastive:
        check_classes(found, str(path))
    elif not found:
        raise ExamplesError(f"{path} holds no example.")
    return found


def _contradictions(examples: Sequence[AnyExample]) -> list[str]:
    """Examples that stand in both classes with the very same content."""
    first: dict[str, AnyExample] = {}
    wrong = []
    for example in examples:
        content = json.dumps([getattr(example, name, None) for name in ("prompt", "response", "input_ids", "start")])
        other = first.setdefault(content, example)
        if other.label != example.label:
            wrong.append(f"line {example.line}: the same example is {other.label} in line {other.line} and {example.label} here")
    return wrong


def raise_for_lines(wrong: Sequence[str], where: str) -> None:
    """Raise one error that names the bad lines (the first ten), if there are any."""
    if wrong:
        more = f"\n  … and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        lines = "\n  ".join(wrong[:10])
        raise ExamplesError(f"{where}: {len(wrong)} bad example{'s' * (len(wrong) > 1)}:\n  {lines}{more}")


def parse_example(record: Any, *, line: int = 0) -> AnyExample:
    """One example from a JSON object; raises ExamplesError that says what is wrong with it."""
    if not isinstance(record, dict):
        raise ExamplesError(f"a JSON object was expected, got {type(record).__name__}")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ExamplesError("half of a surrogate pair (\\ud800 … \\udfff) is no character") from None
    label = record.get("label")
    if label not in LABELS:
        raise ExamplesError(f"label must be 'positive' or 'negative', got {label!r}")
    if "input_ids" in record:
        return _parse_tokenized(record, label, line)
    missing = [key for key in ("prompt", "response") if key not in record]
    if missing:
        raise ExamplesError(f"no {' and no '.join(missing)}; its keys are {', '.join(map(repr, record))}")
    prompt, response = record.get("prompt"), record.get("response")
    if isinstance(prompt, list):
        prompt = tuple(_parse_message(message) for message in prompt)
        if not prompt:
            raise ExamplesError("the prompt is an empty list of messages")
    elif not isinstance(prompt, str):
        raise ExamplesError(f"prompt must be a string or a list of messages, got {type(prompt).__name__}")
    if not isinstance(response, str):
        raise ExamplesError(f"response must be a string, got {type(response).__name__}")
    if not response:
        raise ExamplesError("the response is empty: there is no position to average over")
    return Example(label, prompt, response, line)


def _parse_message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise ExamplesError(f"a message must be {{'role': str, 'content': str}}, got {message!r}")
    return {"role": message["role"], "content": message["content"]}


def _parse_tokenized(record: dict[str, Any], label: Label, line: int) -> TokenizedExample:
    ids, start = record["input_ids"], record.get("start")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise ExamplesError("input_ids must be a list of token ids (integers from 0)")
    if type(start) is not int:
        raise ExamplesError(f"start must be the index of the first response token, got {start!r}")
    if start < 1:
        raise ExamplesError(f"start is {start}: at least one token must come before the response, to predict it")
    if start >= len(ids):
        raise ExamplesError(f"start is {start} and there are {len(ids)} tokens: the response span is empty")
    return TokenizedExample(label, tuple(ids), start, line)


def check_classes(examples: Sequence[AnyExample], where: str) -> None:
    """Raise ExamplesError unless both classes are there."""
    counts = {label: sum(example.label == label for example in examples) for label in LABELS}
    missing = [label for label, count in counts.items() if not count]
    if missing:
        raise ExamplesError(
            f"{where}: no {' and no '.join(missing)} examples among {len(examples)}. A direction is a difference: "
            "both classes are needed."
        )


def split_examples(
    examples: Sequence[AnyExample], *, fraction: float = 0.25, seed: int = 0
) -> tuple[list[AnyExample], list[AnyExample]]:
    """Set a share of the examples aside: (kept, set aside).

    Examples with the same prompt go to the same side, so that no prompt is measured that a direction came from. Both
    sides keep the order of the file.

    Raises:
        ExamplesError: if one side would lack a class; more distinct prompts are needed then.
    """
    keys = list(dict.fromkeys(example.key for example in examples))
    if len(keys) < 2:
        raise ExamplesError(f"setting examples aside needs at least 2 different prompts; there is {len(keys)}.")
    random.Random(seed).shuffle(keys)
    aside = set(keys[: max(1, round(len(keys) * fraction))])
    kept = [example for example in examples if example.key not in aside]
    held = [example for example in examples if example.key in aside]
    for side, name in ((kept, "the rest of the split"), (held, f"the held-out split ({fraction:.0%})")):
        check_classes(side, name)
    return kept, held
