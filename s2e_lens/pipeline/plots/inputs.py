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
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.visualizers import View

Drawn = dict[str, go.Figure | View]
GENERIC = ("directions", "edit", "attribution")
"""Names of files that say nothing: such a file is called by its folder."""

Result = Directions | Edit | Attribution
T = TypeVar("T", Directions, Edit, Attribution)
Anything = TypeVar("Anything")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What figures are drawn from, by a name that tells one from another."""

    directions: Mapping[str, Directions] = field(default_factory=dict)
    edits: Mapping[str, Edit] = field(default_factory=dict)
    attributions: Mapping[str, Attribution] = field(default_factory=dict)
    sweeps: Mapping[str, Path] = field(default_factory=dict)
    """Their folders."""


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
    sweeps: dict[str, Path] = {}
    for path in (part for each in paths for part in _parts(Path(each))):
        if path.is_dir():
            _put(sweeps, path, path)
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
    sweeps = [path] if (path / MANIFEST).is_file() else sorted(each.parent for each in path.glob(f"*/{MANIFEST}"))
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    if not sweeps and not files:
        raise StorageError(f"{path} holds no .safetensors file and no sweep. Give a file, or the folder of a run or a sweep.")
    yield from sweeps
    yield from files


def _put(known: dict[str, Anything], path: Path, result: Anything) -> None:
    """Keep a result under the name of its file, or of the folder of a file whose name says nothing."""
    path = path.absolute()
    name = path.parent.name if path.stem in GENERIC else path.stem
    if name in known:
        raise StorageError(f"{path} and an earlier file of its kind are both called {name!r}. Rename one of them.")
    known[name] = result


def need(found: Mapping[str, Anything], what: str) -> Mapping[str, Anything]:
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
    """Scores that came as files, and with a model those of all directions for which none came.

    Raises:
        PlanError: if there are none, or none for some of the directions and no model to compute them with.
    """
    known = dict(inputs.attributions)
    missing = {name: each for name, each in inputs.directions.items() if not any(belong(each, score) for score in known.values())}
    if asked.model is not None:
        score = SCORES[asked.score]
        computed = {name: attribute(asked.model, each, score=score) for name, each in missing.items()}
        known |= {f"{name}, {asked.score}" if name in known else name: each for name, each in computed.items()}
    elif missing:
        raise PlanError(
            f"there are no scores of {', '.join(missing)}: give --model to compute them, or files of `s2e-lens attribute --out`."
        )
    return need(known, "scores: a file of `s2e-lens attribute --out`, a report folder of run, or directions with --model")


def belong(one: Result, other: Result) -> bool:
    """Whether two results come from the same weights and the same examples (or one from a sum of which these are a part)."""
    first, second = one.provenance, other.provenance
    sources = [set((each.data_hash or "").split("+")) for each in (first, second)]
    return first.weight_hash == second.weight_hash and (sources[0] <= sources[1] or sources[1] <= sources[0])


def of(name: str, result: Result, found: Mapping[str, T]) -> T | None:
    """The one that belongs to a result: of the same name, or the only one that comes from the same examples; None without one."""
    candidates = {other: each for other, each in found.items() if belong(result, each)}
    if name in candidates:
        return candidates[name]
    return next(iter(candidates.values())) if len(candidates) == 1 else None


def matching(name: str, result: Result, found: Mapping[str, T], what: str) -> T:
    """The one that belongs to a result.

    Raises:
        PlanError: if none does, or several do and none has its name.
    """
    one = of(name, result, found)
    if one is None:
        raise PlanError(
            f"no {what} among {', '.join(found) or 'nothing'} belong to {name!r}: they must come from the same weights and "
            "examples, and have its name if several do."
        )
    return one
