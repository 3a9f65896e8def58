"""``sweep`` and ``compare``: a whole trade-off of one behaviour on disk, and what it says about edit against steering."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from s2e_lens.activations import collect_means
from s2e_lens.behaviors import Behavior, tokenize_examples
from s2e_lens.behaviors.tokens import hash_examples
from s2e_lens.directions import Method, difference_of_means, find_directions, needs_examples
from s2e_lens.errors import MismatchError, PlanError
from s2e_lens.evaluation import Bench, Comparison, Plan, Record, Sweep, SweepStore, compare, sweep_frame
from s2e_lens.evaluation.comparison import gains_json, points_frame
from s2e_lens.evaluation.sweep import choose_record, manifest
from s2e_lens.evaluation.tradeoff import Tolerance
from s2e_lens.models import LensModel
from s2e_lens.pipeline.drawing import comparison_tradeoff
from s2e_lens.pipeline.tables import ACCURACY, PERPLEXITY
from s2e_lens.results import Directions
from s2e_lens.storage import atomic_path, load, save, write_json, write_text
from s2e_lens.visualizers import Changes, TradeOff, changes_info, draw_tradeoff, write_html

TABLE = "sweep"


def sweep(
    model: LensModel,
    behavior: Behavior,
    out: str | Path,
    plan: Plan,
    *,
    directions: Directions | None = None,
    method: Method | None = None,
    resume: bool = False,
    share: bool | None = None,
    progress: bool = False,
) -> Sweep:
    """Measure a whole grid (or search) of edits, steering and controls of one behaviour, into a folder.

    On the validation split everything is measured; on the test split the unedited model, steering, the edits that no other
    beats on the validation split, the one that is chosen there, and controls. ``sweep.csv`` and
    ``sweep.parquet`` hold one row per setting and split, also after an interruption.

    Args:
        model: from :func:`s2e_lens.load_model`.
        behavior: with validation and test examples.
        out: the folder; a new one, or with ``resume`` that of an unfinished sweep.
        plan: what to compare.
        directions: steering vectors; extracted from the training examples without them.
        method: how they are found then.
        resume: continue a sweep of the same inputs.
        share: let settings share forward passes, or not; None takes the faster way, by measurement.
        progress: show progress bars.

    Raises:
        StorageError: if ``out`` holds something else, or a sweep and ``resume`` was not asked for.
        MismatchError: if the sweep was begun with other inputs.
        ExamplesError: if there is no validation split.
    """
    out = Path(out)
    path = out / "directions.safetensors"
    if directions is None:
        directions = _directions(model, behavior, path, method, plan, resume=resume, progress=progress)
    bench = Bench(model, directions, system=behavior.system)
    plan.grid.settings(bench)  # a wrong grid fails before anything is measured or written
    store = SweepStore.open(out, manifest(bench, behavior, plan), resume=resume)
    if not path.exists():
        save(directions, path)
    _unfinished(path).unlink(missing_ok=True)
    found = Sweep(bench, behavior, plan, store, share=share, progress=progress)
    try:
        found.run()
    finally:  # an interruption leaves a table of what is finished
        write_tables(store)
    return found


def _directions(
    model: LensModel, behavior: Behavior, path: Path, method: Method | None, plan: Plan, *, resume: bool, progress: bool
) -> Directions:
    """The sweep's own directions, or new ones.

    Raises:
        MismatchError: if the sweep's come from other examples, weights or another method.
    """
    train = tokenize_examples(model, behavior.train, truncate=plan.truncate)
    if resume and path.is_file():
        found = load(path, Directions)
        wanted = {
            "training examples": (found.provenance.data_hash, hash_examples(train)),
            "weights": (found.provenance.weight_hash, model.weight_hash()),
            "method": (found.method, getattr(method or difference_of_means, "__name__", "")),
        }
        changed = [name for name, (then, now) in wanted.items() if then != now]
        if changed:
            raise MismatchError(
                f"the directions of {path.parent} come from other {' and '.join(changed)}: results of both must not be mixed. "
                "Use the same ones, or choose another --out."
            )
        return found
    checkpoint = _unfinished(path)
    means = collect_means(
        model,
        train,
        keep_examples=needs_examples(method),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        seed=plan.seed,
    )
    return find_directions(means, method=method)


def _unfinished(path: Path) -> Path:
    """Where unfinished means are kept until the directions are saved: beside the sweep's folder, which is still to be made."""
    return path.parent.with_name(f"{path.parent.name}.means.partial")


def write_tables(store: SweepStore) -> None:
    """Write ``sweep.csv`` and ``sweep.parquet``: one row per setting and split that is finished."""
    frame = sweep_frame([*store.on("validation"), *store.on("test")])
    if not len(frame):
        return
    write_text(store.folder / f"{TABLE}.csv", frame.to_csv(index=False))
    with atomic_path(store.folder / f"{TABLE}.parquet") as temporary:
        frame.to_parquet(temporary, index=False)


@dataclass(frozen=True, eq=False)
class SweepResult:
    """A finished sweep, read and compared."""

    manifest: dict[str, Any]
    validation: Sequence[Record]
    test: Sequence[Record]
    comparison: Comparison
    tolerance: Tolerance


def compare_sweep(folder: str | Path, *, tolerance: Tolerance | None = None, seed: int | None = None) -> SweepResult:
    """Choose an edit on the validation split of a sweep and compare it with steering on the test split; no model is needed.

    Args:
        folder: what :func:`sweep` wrote.
        tolerance: what the edit may cost on the validation split; the sweep's own by default.
        seed: of the bootstrap; the sweep's by default.

    Raises:
        StorageError: if there is no sweep.
        PlanError: if it is not finished, or the edit that another tolerance chooses was not measured on the test split.
    """
    store = SweepStore.read(folder)
    plan, higher = store.manifest["plan"], bool(store.manifest["higher_is_better"])
    tolerance = Tolerance(**plan["tolerance"]) if tolerance is None else tolerance
    validation, test = store.on("validation"), store.on("test")
    chosen = choose_record(validation, 1 if higher else -1, tolerance)
    comparison = compare(
        test,
        chosen.setting,
        higher_is_better=higher,
        validation=validation,
        tolerance=tolerance,
        seed=int(plan["seed"]) if seed is None else seed,
    )
    return SweepResult(store.manifest, validation, test, comparison, tolerance)


def comparison_json(result: SweepResult) -> dict[str, Any]:
    """The comparison as JSON holds it."""
    found = result.comparison
    return {
        "model": result.manifest["model"],
        "behavior": result.manifest["behavior"],
        "tolerance": dataclasses.asdict(result.tolerance),
        "edit": {"setting": {"method": found.edit.setting.method, **found.edit.setting.options}},
        "attribute": {"base": found.base.attribute.value, "edit": found.edit.attribute.value},
        "utility": {"base": found.base.items.utility, "edit": found.edit.items.utility},
        **gains_json(found),
        "steering_selected_alike": None
        if found.steering is None or found.selected is None
        else {"strength": found.steering.setting.strength, **dataclasses.asdict(found.selected)},
        "on_pareto_front_of_test": found.on_pareto_front,
        "settings_tried": found.tried,
    }


def write_comparison(result: SweepResult, out: str | Path) -> None:
    """Write ``comparison.json``, ``points.csv`` and the figure ``tradeoff.html`` into a folder."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", json.loads(json.dumps(comparison_json(result))))
    write_text(out / "points.csv", points_frame(result.comparison).to_csv(index=False))
    title = f"{result.manifest['behavior']} on {result.manifest['model']}: edit against steering"
    write_html(draw_comparison(result), out / "tradeoff.html", title=title)


def sweep_tradeoff(result: SweepResult) -> TradeOff:
    """The trade-off on the test split: base, steering curve, the edits of the validation split's Pareto set, controls."""
    return comparison_tradeoff(
        result.comparison,
        attribute=str(result.manifest["attribute"]),
        utility=ACCURACY if result.comparison.base.items.tasks else PERPLEXITY,
        label=lambda each: each.setting.label,
    )


def sweep_changes(
    result: SweepResult, *, steering: bool = False, prompts: Sequence[str] | None = None, lower_is_better: Collection[str] = ()
) -> Changes:
    """What the compared edit changed on the test split, prompt by prompt.

    Args:
        result: from :func:`compare_sweep`.
        steering: against steering selected in the same way, instead of the unedited model.
        prompts: texts of the attribute's items, in their order.
        lower_is_better: the behaviour's further metrics (``also``) of which less is better; the sweep does not hold this.

    Raises:
        PlanError: if steering is asked for, and none was selected.
    """
    found = result.comparison
    if steering and found.steering is None:
        raise PlanError("no steering strength was selected: the sweep has no steering on its validation split.")
    first = found.steering if steering and found.steering is not None else found.base
    return changes_info(
        first.items,
        found.edit.items,
        attribute=str(result.manifest["attribute"]),
        higher_is_better=found.higher_is_better,
        lower_is_better=lower_is_better,
        names=("steering" if steering else "unedited", "edit"),
        prompts=prompts,
    )


def draw_comparison(result: SweepResult) -> go.Figure:
    """:func:`sweep_tradeoff` as a figure."""
    return draw_tradeoff(sweep_tradeoff(result))
