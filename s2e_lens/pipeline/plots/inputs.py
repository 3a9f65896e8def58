"""What figures are drawn from: files and folders that the other commands wrote, and what was asked for besides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import plotly.graph_objects as go

from s2e_lens import storage
from s2e_lens.attribution import SCORES, attribute
from s2e_lens.errors import PlanError, StorageError
from s2e_lens.evaluation.store import MANIFEST
from s2e_lens.models import LensModel
from s2e_lens.pipeline.sweeps import SweepResult, compare_sweep
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.visualizers import View

Drawn = dict[str, go.Figure | View]
GENERIC = ("directions", "edit", "attribution")
"""Names of files that say nothing: such a file is called by its folder."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What figures are drawn from, by a name that tells one from another."""

    directions: Mapping[str, Directions] = field(default_factory=dict)
    edits: Mapping[str, Edit] = field(default_factory=dict)
    attributions: Mapping[str, Attribution] = field(default_factory=dict)
    sweeps: Mapping[str, SweepResult] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Asked:
    """What else a figure needs: a model for some kinds, and choices."""

    model: LensModel | None = None
    score: str = "cosine"
    top: int = 20
    prompt: str | None = None
    response: str | None = None
    components: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    strength: float = 1.0


def read_inputs(paths: Sequence[str | Path]) -> Inputs:
    """Read files of ``extract``, ``attribute`` and ``edit``, report folders of ``run``, and folders of ``sweep``.

    Raises:
        StorageError: for a path that is none of these, or two that would have one name.
    """
    directions: dict[str, Directions] = {}
    edits: dict[str, Edit] = {}
    attributions: dict[str, Attribution] = {}
    sweeps: dict[str, SweepResult] = {}
    for path in (part for each in paths for part in _parts(Path(each))):
        if path.is_dir():
            _put(sweeps, path, compare_sweep(path))
            continue
        result = storage.load(path)
        for kind, known in ((Directions, directions), (Edit, edits), (Attribution, attributions)):
            if isinstance(result, kind):
                _put(known, path, result)  # pyright: ignore[reportArgumentType]
                break
        else:
            raise StorageError(
                f"{path} holds {type(result).__name__}; directions, an edit, an attribution or a sweep can be drawn."
            )
    return Inputs(directions, edits, attributions, sweeps)


def _parts(path: Path) -> Iterator[Path]:
    """What there is to read at a path: itself, or the parts of a folder."""
    if not path.exists():
        raise StorageError(f"{path} is not there. A .safetensors file, or the folder of a run or a sweep, was needed.")
    if path.is_file():
        yield path
        return
    sweeps = [path] if (path / MANIFEST).is_file() else []
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    if not sweeps and not files:
        raise StorageError(f"{path} holds no .safetensors file and no sweep. Give a file, or the folder of a run or a sweep.")
    yield from sweeps
    yield from files


def _put(known: dict[str, T], path: Path, result: T) -> None:
    """Keep a result under the name of its file, or of the folder of a file whose name says nothing."""
    path = path.absolute()
    name = path.parent.name if path.stem in GENERIC else path.stem
    if name in known:
        raise StorageError(f"{path} and an earlier file of its kind are both called {name!r}. Rename one of them.")
    known[name] = result


def need(found: Mapping[str, T], what: str) -> Mapping[str, T]:
    """Refuse to go on without any."""
    if not found:
        raise PlanError(f"this kind of figure needs {what}; none of the files is one.")
    return found


def model_of(asked: Asked) -> LensModel:
    """The model that was asked for."""
    if asked.model is None:
        raise PlanError("this kind of figure runs the model: give --model.")
    return asked.model


def attributions_of(inputs: Inputs, asked: Asked) -> Mapping[str, Attribution]:
    """Scores that came as files, or that are computed from directions with a model."""
    if inputs.attributions or asked.model is None:
        what = "scores: a file of `s2e-lens attribute --out`, a report folder of run, or directions with --model"
        return need(inputs.attributions, what)
    directions = need(inputs.directions, "an attribution, or directions")
    return {name: attribute(asked.model, each, score=SCORES[asked.score]) for name, each in directions.items()}


def matching(name: str, found: Mapping[str, T], what: str) -> T:
    """The one of a name, or the only one."""
    if name not in found and len(found) != 1:
        raise PlanError(f"which {what} belong to the edit {name!r}? There are {', '.join(found)}. Give one, or one of its name.")
    return found.get(name) or next(iter(found.values()))
