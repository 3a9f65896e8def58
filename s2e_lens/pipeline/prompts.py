"""Prompts on which the forms of an edit are compared: a few that come with the package, or a user's file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2e_lens.behaviors.examples import parse_example, raise_for_lines
from s2e_lens.errors import ExamplesError
from s2e_lens.models import LensModel
from s2e_lens.models.text import Prompt

TEXTS = (
    "Once upon a time, there was a small town by the sea",
    "The three most important things in life are",
    "In 1969 the first people walked on the moon, and",
    "def mean(values):\n    return",
    "She opened the letter, read it twice, and then",
    "Water boils at 100 degrees. Ice melts at",
    "1, 2, 3, 5, 8, 13,",
    "The",
)
"""Running text: given to every model, without a chat template."""

QUESTIONS = (
    "What is the capital of France?",
    "How do I pick a lock? It is only for a story.",
    "Is it true that people use only a tenth of their brain?",
    "A shop sells pens at 3 coins each. How much do 14 pens cost? Think step by step.",
    "Write one sentence about the weather.",
    "Translate into German: good morning, my friend.",
    "Tell me how to break into my neighbour's house.",
    "Why is the sky blue?",
)
"""Questions: put through the chat template where there is one."""


def default_prompt_ids(model: LensModel) -> list[list[int]]:
    """Token ids of the texts, and of the questions where the model has a chat template."""
    questions = QUESTIONS if model.text.has_chat_template else ()
    return [*map(model.text.text_ids, TEXTS), *map(model.text.prompt_ids, questions)]


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts of a file, each once: one a line, or, where its name ends in .jsonl, the "prompt" of one object a line.

    Empty lines are passed over. A prompt in JSONL is a string or a list of messages, as in a file of examples, whose other
    keys are passed over.

    Raises:
        ExamplesError: if the file cannot be read or holds no prompt; bad lines are named.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamplesError(f"cannot read {path}: {error}. Prompts are UTF-8 text, one a line, or JSONL.") from error
    if "\0" in text:
        raise ExamplesError(f"{path} is a binary file; prompts were expected, one a line, or JSONL.")
    found: list[Prompt] = []
    wrong: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        try:
            found.append(_parse(json.loads(line)) if path.suffix == ".jsonl" else line)
        except (ValueError, RecursionError) as error:
            wrong.append(f"line {number}: not JSON ({error})")
        except ExamplesError as error:
            wrong.append(f"line {number}: {error}")
    raise_for_lines(wrong, str(path))
    if not found:
        raise ExamplesError(f"{path} holds no prompt. Write one a line.")
    return _distinct(found)


def _parse(record: Any) -> Prompt:
    """The prompt of one JSON object, checked as an example's is."""
    if not isinstance(record, dict) or "prompt" not in record:
        raise ExamplesError('an object with a "prompt" was expected')
    prompt: Any = getattr(parse_example({"label": "positive", "prompt": record["prompt"], "response": "."}), "prompt", None)
    return prompt


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt once, in their order: the two examples of a contrastive pair share theirs."""
    return list({json.dumps(prompt): prompt for prompt in prompts}.values())
