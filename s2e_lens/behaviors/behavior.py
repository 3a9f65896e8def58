"""A behaviour: its examples in three splits, and how it and what must not suffer are measured."""

import importlib
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2e_lens.behaviors.examples import AnyExample, TokenizedExample, check_classes, read_examples, split_examples
from s2e_lens.errors import ExamplesError
from s2e_lens.models import LensModel

_KEYS = ("name", "examples", "train", "validation", "test", "neutral", "attribute", "utility")


@dataclass(frozen=True)
class Metric:
    """A named measurement: one number per item, whose mean is the value that is reported."""

    name: str
    measure: Callable[[LensModel, Sequence[TokenizedExample]], Sequence[float]]
    """Called with a model (edited, steered or neither) and the tokenised examples of one split."""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Behavior:
    """Contrastive examples in splits that share no prompt, with an attribute and a utility metric.

    ``train`` is what directions come from; ``validation`` is for choosing settings; ``test`` is what is reported. Without
    metrics, the pipeline measures what the examples hold: the mean log-probability per token of positive against
    negative responses, and perplexity on ``neutral`` text.
    """

    name: str
    train: Sequence[AnyExample]
    test: Sequence[AnyExample]
    validation: Sequence[AnyExample] = ()
    attribute: Metric | None = None
    utility: Metric | None = None
    neutral: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_classes(self.train, f"{self.name}: train")
        seen: set[str] = set()
        for split, examples in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            shared = [example for example in examples if example.key in seen]
            if shared:
                raise ExamplesError(
                    f"{self.name}: {len(shared)} {split} examples share their prompt with an earlier split (the first is line "
                    f"{shared[0].line}). Whatever is measured on them was seen before: move them to one split."
                )
            seen |= {example.key for example in examples}

    @classmethod
    def from_examples(cls, name: str, examples: Sequence[AnyExample], *, seed: int = 0, **known: Any) -> "Behavior":
        """Set a quarter of the prompts aside for the test split; see :func:`split_examples`."""
        train, test = split_examples(examples, seed=seed)
        return cls(name=name, train=train, test=test, **known)


def load_behavior(path: str | Path, *, seed: int = 0) -> Behavior:
    """Read a behaviour from a TOML file.

    Keys: ``name``; ``examples`` (one JSONL file, split here) or ``train``, ``test`` and perhaps ``validation``;
    ``neutral`` (a text file, one passage a line); ``attribute`` and ``utility``, each ``"module:name"`` of a
    :class:`Metric`. Paths are relative to the TOML file.

    Raises:
        ExamplesError: for a file that is missing or wrong, naming the key.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExamplesError(f"cannot read {path}: {error}") from error
    wrong = [key for key, value in table.items() if not isinstance(value, str)]
    if wrong:
        raise ExamplesError(f"{path}: {', '.join(wrong)} must be a string.")
    unknown = set(table) - set(_KEYS)
    if unknown:
        raise ExamplesError(f"{path}: unknown keys {sorted(unknown)}; the keys are {', '.join(_KEYS)}.")
    known: dict[str, Any] = {key: _import_metric(path, key, table[key]) for key in ("attribute", "utility") if key in table}
    if "neutral" in table:
        known["neutral"] = read_neutral(path.parent / table["neutral"])
    name = table.get("name", path.stem)
    if "examples" in table and {"train", "validation", "test"} & set(table):
        raise ExamplesError(f"{path}: give 'examples', which is split here, or 'train' and 'test', and not both.")
    if "examples" in table:
        return Behavior.from_examples(name, read_examples(path.parent / table["examples"]), seed=seed, **known)
    if not {"train", "test"} <= set(table):
        raise ExamplesError(f"{path}: either 'examples', or both 'train' and 'test', must name JSONL files.")
    splits = {key: read_examples(path.parent / table[key]) for key in ("train", "validation", "test") if key in table}
    return Behavior(name=name, **splits, **known)


def read_neutral(path: str | Path | None = None) -> tuple[str, ...]:
    """Passages of neutral text, one a line; without a path, the 80 that ship with the package."""
    source = Path(path) if path is not None else Path(__file__).parent / "neutral.txt"
    try:
        lines = tuple(line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ExamplesError(f"cannot read neutral text from {source}: {error}") from error
    if not lines:
        raise ExamplesError(f"{source} holds no text: one passage a line was expected.")
    return lines


def _import_metric(path: Path, key: str, target: str) -> Metric:
    module, _, name = target.partition(":")
    sys.path.insert(0, str(path.parent.resolve()))  # as for a script: modules beside the file are found
    try:
        metric = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ExamplesError(
            f"{path}: {key} = {target!r} cannot be imported ({error}). Write 'module:name', of a module that is installed or "
            f"lies beside {path.name}."
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not isinstance(metric, Metric):
        raise ExamplesError(f"{path}: {key} = {target!r} is a {type(metric).__name__}, not an s2e_lens Metric.")
    return metric
