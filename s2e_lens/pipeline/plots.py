"""Every kind of figure from files: what the command ``plot`` draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import plotly.graph_objects as go
from torch import Tensor

from s2e_lens import storage
from s2e_lens.attribution import SCORES, attribute
from s2e_lens.errors import PlanError, StorageError
from s2e_lens.evaluation.store import MANIFEST
from s2e_lens.models import LensModel
from s2e_lens.pipeline.sweeps import SweepResult, compare_sweep, sweep_changes, draw_comparison
from s2e_lens.results import SITES, Attribution, Directions, Edit, Site
from s2e_lens.visualizers import (
    View,
    dose_info,
    draw_changes,
    draw_direction_cosines,
    draw_direction_norms,
    draw_dose,
    draw_edit_distribution,
    draw_head_heatmap,
    draw_layer_bins,
    draw_neuron_ranking,
    draw_ranked_curves,
    edit_distribution_info,
    geometry_info,
    head_heatmap_info,
    layer_bins_info,
    neuron_ranking_info,
    ranked_curves_info,
)

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
        raise StorageError(f"two {type(result).__name__} are called {name!r}; the second is {path}. Rename one of them.")
    known[name] = result


def _need(found: Mapping[str, T], what: str) -> Mapping[str, T]:
    if not found:
        raise PlanError(f"this kind of figure needs {what}; none of the files is one.")
    return found


def _model(asked: Asked) -> LensModel:
    if asked.model is None:
        raise PlanError("this kind of figure runs the model: give --model.")
    return asked.model


def _attributions(inputs: Inputs, asked: Asked) -> Mapping[str, Attribution]:
    """Scores that came as files, or that are computed from directions with a model."""
    if inputs.attributions or asked.model is None:
        what = "scores: a file of `s2e-lens attribute --out`, a report folder of run, or directions with --model"
        return _need(inputs.attributions, what)
    directions = _need(inputs.directions, "an attribution, or directions")
    return {name: attribute(asked.model, each, score=SCORES[asked.score]) for name, each in directions.items()}


def _of(name: str, edits: Mapping[str, Edit]) -> Edit | None:
    """The edit that belongs to scores: of the same name, or the only one."""
    return edits.get(name) or (next(iter(edits.values())) if len(edits) == 1 else None)


def _lam(edit: Edit | None, site: Site) -> Tensor | None:
    """λ of a site, added up over the terms of an edit."""
    terms = () if edit is None else edit[site]
    return sum((term.lam for term in terms[1:]), terms[0].lam) if terms else None


def _titled(name: str, attribution: Attribution) -> str:
    return f"{name}: {attribution.score}"


def _heads(inputs: Inputs, asked: Asked) -> Drawn:
    if not inputs.attributions and (inputs.edits and asked.model is None):
        lams = {name: _lam(edit, "attn") for name, edit in inputs.edits.items()}
        return {
            f"heads_{name}": draw_head_heatmap(head_heatmap_info(lam, edited=lam, name=f"{name}: λ"))
            for name, lam in _need({name: lam for name, lam in lams.items() if lam is not None}, "an edit of heads").items()
        }
    return {
        f"heads_{name}": draw_head_heatmap(
            head_heatmap_info(each.heads, edited=_lam(_of(name, inputs.edits), "attn"), name=_titled(name, each))
        )
        for name, each in _attributions(inputs, asked).items()
    }


def _neurons(inputs: Inputs, asked: Asked) -> Drawn:
    return {
        f"neurons_{name}": draw_neuron_ranking(
            neuron_ranking_info(each.neurons, k=asked.top, lam=_lam(_of(name, inputs.edits), "mlp"), name=_titled(name, each))
        )
        for name, each in _attributions(inputs, asked).items()
    }


def _curves(inputs: Inputs, asked: Asked) -> Drawn:
    return {
        f"curves_{name}": draw_ranked_curves(
            ranked_curves_info(each.neurons, lam=_lam(_of(name, inputs.edits), "mlp"), name=_titled(name, each))
        )
        for name, each in _attributions(inputs, asked).items()
    }


def _bins(inputs: Inputs, asked: Asked) -> Drawn:
    return {
        f"bins_{name}": draw_layer_bins(
            layer_bins_info(each.neurons, lam=_lam(_of(name, inputs.edits), "mlp"), name=_titled(name, each))
        )
        for name, each in _attributions(inputs, asked).items()
    }


def _distribution(inputs: Inputs, asked: Asked) -> Drawn:
    edits = _need(inputs.edits, "edits")
    found: Drawn = {}
    for site, what in zip(SITES, ("heads", "neurons"), strict=True):
        there = {name: edit for name, edit in edits.items() if edit.count(site)}
        if there:
            found[f"distribution_{what}"] = draw_edit_distribution(edit_distribution_info(there, site=site))
    return found


def _tradeoff(inputs: Inputs, asked: Asked) -> Drawn:
    return {f"tradeoff_{name}": draw_comparison(each) for name, each in _need(inputs.sweeps, "the folder of a sweep").items()}


def _changes(inputs: Inputs, asked: Asked) -> Drawn:
    sweeps = _need(inputs.sweeps, "the folder of a sweep")
    return {f"changes_{name}": draw_changes(sweep_changes(each)) for name, each in sweeps.items()}


def _geometry(inputs: Inputs, asked: Asked) -> Drawn:
    info = geometry_info(_need(inputs.directions, "directions"))
    found: Drawn = {
        "geometry_norms": draw_direction_norms(info),
        "geometry_layers": draw_direction_cosines(info, between="layers"),
        "geometry_sites": draw_direction_cosines(info, between="sites"),
    }
    if len(info.names) > 1:
        found["geometry_behaviors"] = draw_direction_cosines(info, between="behaviors")
    return found


def _dose(inputs: Inputs, asked: Asked) -> Drawn:
    edits, directions = _need(inputs.edits, "an edit"), _need(inputs.directions, "directions (their means are x̄)")
    scores = _attributions(inputs, asked)
    found: Drawn = {}
    for name, edit in edits.items():
        means, attribution = _matching(name, directions, "directions").means, _matching(name, scores, "scores")
        found[f"dose_{name}"] = draw_dose(dose_info(edit, means, attribution))
    return found


def _matching(name: str, found: Mapping[str, T], what: str) -> T:
    if name not in found and len(found) != 1:
        raise PlanError(f"which {what} belong to the edit {name!r}? There are {', '.join(found)}. Give one, or one of its name.")
    return found.get(name) or next(iter(found.values()))


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    draw: Callable[[Inputs, Asked], Drawn]
    shows: str


KINDS: dict[str, Kind] = {
    "heads": Kind(_heads, "scores of the heads (or λ, from an edit alone), layer by head"),
    "neurons": Kind(_neurons, "the top neurons"),
    "curves": Kind(_curves, "scores of the neurons by rank, a curve per layer"),
    "bins": Kind(_bins, "all neurons in bins, layer by layer, no spike hidden"),
    "distribution": Kind(_distribution, "where edits sit, one or several side by side"),
    "dose": Kind(_dose, "how hard each edited component pushes, against its score"),
    "geometry": Kind(_geometry, "norms of steering vectors, and cosines between layers, sites and behaviours"),
    "tradeoff": Kind(_tradeoff, "attribute against utility: edits, steering, controls (of a sweep)"),
    "changes": Kind(_changes, "which questions the edit changed (of a sweep)"),
}
"""By the name that the command line uses."""


def plot(kind: str, inputs: Inputs, asked: Asked | None = None) -> Drawn:
    """Draw a kind of figure from what was read; figures by name.

    Raises:
        PlanError: if there is no such kind, or it needs something that did not come.
        S2EError: if the inputs do not belong together.
    """
    if kind not in KINDS:
        raise PlanError(f"there is no figure {kind!r}. There are: {', '.join(KINDS)}.")
    return KINDS[kind].draw(inputs, asked or Asked())
