"""A behaviour: its examples in three splits, and how it and what must not suffer are measured."""

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s2e_lens.behaviors.examples import AnyExample, TokenizedExample, check_classes, read_examples, split_examples
from s2e_lens.demo import BEHAVIORS, DATA_FOLDER
from s2e_lens.errors import ExamplesError, MissingPackageError
from s2e_lens.models import LensModel

_FILES = ("train", "validation", "test")
_KEYS = ("name", "examples", *_FILES, "neutral", "attribute", "also", "utility", "system")
_TASK_KEYS = ("name", "metric", "validation", "test", "task")
_METRICS = "s2e_lens.evaluation"
"""Where a metric is looked for that is named without a module."""


@dataclass(frozen=True)
class Metric:
    """A named measurement: one number per item, whose mean is the value that is reported."""

    name: str
    measure: Callable[[LensModel, Sequence[TokenizedExample]], Sequence[float]]
    """Called with a model (edited, steered or neither) and the tokenised examples of one split."""
    higher_is_better: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What it was made with: a sweep that was begun with other settings is not continued."""


@dataclass(frozen=True)
class Task:
    """Something that must not suffer: a metric in which higher is better, and what it is measured on."""

    name: str
    metric: Metric
    test: Sequence[AnyExample]
    validation: Sequence[AnyExample] = ()

    def __post_init__(self) -> None:
        if not self.metric.higher_is_better:
            raise ExamplesError(
                f"{self.name}: utility is a mean over tasks, so higher must be better; {self.metric.name!r} is not."
            )
        _check_apart(self.name, [("validation", self.validation), ("test", self.test)])


@dataclass(frozen=True)
class Behavior:
    """Contrastive examples in splits that share no prompt, with an attribute to move and tasks that must not suffer.

    ``train`` is what directions come from; ``validation`` is for choosing settings; ``test`` is what is reported. Without
    an attribute, the pipeline measures what the examples hold: the mean log-probability per token of positive against
    negative responses. Utility is the mean over the tasks of ``utility``; without any, perplexity on ``neutral`` text.
    """

    name: str
    train: Sequence[AnyExample]
    test: Sequence[AnyExample]
    validation: Sequence[AnyExample] = ()
    attribute: Metric | None = None
    also: Sequence[Metric] = ()
    """Further metrics to report on the test examples."""
    utility: Sequence[Task] = ()
    neutral: Sequence[str] = ()
    system: str | None = None
    """A system prompt that asks for the behaviour in words: a baseline that any edit is compared with."""

    def __post_init__(self) -> None:
        check_classes(self.train, f"{self.name}: train")
        _check_apart(self.name, [("training", self.train), ("validation", self.validation), ("test", self.test)])
        names = [task.name for task in self.utility]
        if len(set(names)) < len(names):
            raise ExamplesError(f"{self.name}: two utility tasks have one name among {names}.")

    @classmethod
    def from_examples(cls, name: str, examples: Sequence[AnyExample], *, seed: int = 0, **known: Any) -> "Behavior":
        """Set a quarter of the prompts aside for the test split; see :func:`split_examples`."""
        train, test = split_examples(examples, seed=seed)
        return cls(name=name, train=train, test=test, **known)


def _check_apart(name: str, splits: Sequence[tuple[str, Sequence[AnyExample]]]) -> None:
    seen: set[str] = set()
    for split, examples in splits:
        shared = [example for example in examples if example.key in seen]
        if shared:
            raise ExamplesError(
                f"{name}: {len(shared)} {split} examples share their prompt with an earlier split (the first is line "
                f"{shared[0].line}). Whatever is measured on them was seen before: move them to one split."
            )
        seen |= {example.key for example in examples}


def shipped_behaviors() -> list[str]:
    """Names of the behaviours that come with the package; :func:`load_behavior` takes them."""
    return list(BEHAVIORS)


def load_behavior(source: str | Path, *, seed: int = 0) -> Behavior:
    """Read a behaviour from a TOML file, or one that comes with the package by its name ("safety").

    Keys: ``name``; ``examples`` (one JSONL file, split here) or ``train``, ``test`` and perhaps ``validation``;
    ``neutral`` (a text file, one passage a line); ``system`` (a system prompt to compare with); ``attribute``, a metric;
    ``also``, a list of metrics; and tables ``[[utility]]`` with ``name``, ``metric``, ``test`` and perhaps ``validation``, or
    with ``task``, what makes a :class:`Task` with items of its own (``{task = "harness_task", harness = "arc_easy"}``). A
    metric is a name in :mod:`s2e_lens.evaluation` or ``"module:name"``, of a :class:`Metric` or a function that makes one;
    with options for that function, ``{metric = "refusal_rate", max_new_tokens = 64}``. Paths are relative to the TOML file.

    Raises:
        ExamplesError: for a file that is missing or wrong, naming the key.
    """
    path = DATA_FOLDER / f"{source}.toml" if source in BEHAVIORS else Path(source)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExamplesError(f"cannot read {path}: {error}") from error
    _check_keys(path, table, _KEYS, strings=("name", "examples", *_FILES, "neutral", "system"))
    for key in ("also", "utility"):
        if not isinstance(table.get(key, []), list):
            raise ExamplesError(f"{path}: {key} must be a list{' of tables: [[utility]]' if key == 'utility' else ''}.")
    known: dict[str, Any] = {
        "also": tuple(_metric(path, "also", each) for each in table.get("also", [])),
        "utility": tuple(_task(path, each) for each in table.get("utility", [])),
    }
    if "system" in table:
        known["system"] = table["system"]
    if "attribute" in table:
        known["attribute"] = _metric(path, "attribute", table["attribute"])
    if "neutral" in table:
        known["neutral"] = read_neutral(path.parent / table["neutral"])
    name = table.get("name", path.stem)
    if "examples" in table and set(_FILES) & set(table):
        raise ExamplesError(f"{path}: give 'examples', which is split here, or 'train' and 'test', and not both.")
    if "examples" in table:
        return Behavior.from_examples(name, read_examples(path.parent / table["examples"]), seed=seed, **known)
    if not {"train", "test"} <= set(table):
        raise ExamplesError(f"{path}: either 'examples', or both 'train' and 'test', must name JSONL files.")
    splits = {key: read_examples(path.parent / table[key]) for key in _FILES if key in table}
    return Behavior(name=name, **splits, **known)


def _check_keys(path: Path, table: dict[str, Any], keys: Sequence[str], *, strings: Sequence[str]) -> None:
    wrong = [key for key in strings if not isinstance(table.get(key, ""), str)]
    if wrong:
        raise ExamplesError(f"{path}: {', '.join(wrong)} must be a string.")
    unknown = set(table) - set(keys)
    if unknown:
        raise ExamplesError(f"{path}: unknown keys {sorted(unknown)}; the keys are {', '.join(keys)}.")


def _task(path: Path, table: Any) -> Task:
    if not isinstance(table, dict):
        raise ExamplesError(f"{path}: utility must be a list of tables, [[utility]].")
    _check_keys(path, table, _TASK_KEYS, strings=("name", "validation", "test"))
    if "task" in table:
        if set(table) - {"name", "task"}:
            raise ExamplesError(f"{path}: a [[utility]] table with 'task' takes no {sorted(set(table) - {'name', 'task'})}.")
        made = _made(path, "utility", table["task"], Task, "task")
        return replace(made, name=table.get("name", made.name))
    missing = {"name", "metric", "test"} - set(table)
    if missing:
        raise ExamplesError(f"{path}: a [[utility]] table lacks {', '.join(sorted(missing))}.")
    items = {key: read_examples(path.parent / table[key], contrastive=False) for key in ("test", "validation") if key in table}
    return Task(name=table["name"], metric=_metric(path, f"utility {table['name']!r}", table["metric"]), **items)


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


def _metric(path: Path, key: str, given: Any) -> Metric:
    return _made(path, key, given, Metric, "metric")


def _made(path: Path, key: str, given: Any, kind: type[Any], what: str) -> Any:
    """A metric, or a task with its items, by the name of it or of a function that makes it, with the function's options."""
    options = dict(given) if isinstance(given, dict) else {what: given}
    target = options.pop(what, None)
    if not isinstance(target, str):
        raise ExamplesError(f"{path}: {key} must name a {what}, or be a table with {what!r} and its options; got {given!r}.")
    module, _, name = target.rpartition(":")
    with _importing_beside(path):
        try:
            found = getattr(importlib.import_module(module or _METRICS), name)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ExamplesError(
                f"{path}: {key} = {target!r} cannot be imported ({error}). Write the name of a {what} in {_METRICS}, or "
                f"'module:name', of a module that is installed or lies beside {path.name}."
            ) from error
        if not isinstance(found, kind) and callable(found):
            try:
                found = found(**options)
            except MissingPackageError:
                raise
            except Exception as error:  # the user's own function, or options that it does not take
                given_options = f"the options {sorted(options)}" if options else "no options"
                raise ExamplesError(f"{path}: {key} = {target!r} cannot be made with {given_options}: {error}") from error
        elif options:
            raise ExamplesError(f"{path}: {key} = {target!r} takes no options; it got {sorted(options)}.")
    if not isinstance(found, kind):
        raise ExamplesError(f"{path}: {key} = {target!r} is a {type(found).__name__}, not an s2e_lens {kind.__name__}.")
    return replace(found, settings={**found.settings, **options}) if isinstance(found, Metric) else found


@contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """As for a script: modules beside the file are found, also by what is made from it (a judge named in an option)."""
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
