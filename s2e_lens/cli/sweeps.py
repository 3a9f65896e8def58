"""``sweep`` and ``compare``: a whole trade-off, and what it says."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s2e_lens.cli import options as o

Values = "a list (0.1,0.2), a range FIRST:LAST:STEP, and - for leaving the site out"


def sweep(
    out: Annotated[Path, typer.Option(help="Folder for the results; with --resume, that of an unfinished sweep.")],
    model: o.Model = "demo",
    behavior: o.Behavior = "safety",
    directions: Annotated[Path | None, typer.Option(help="A directions file; without it they are extracted.")] = None,
    preset: Annotated[
        Literal["paper"] | None, typer.Option(help="The paper's grid for this model (by name) and behaviour.")
    ] = None,
    rho_attn: Annotated[str | None, typer.Option(help=f"ρ of the heads: {Values}.")] = None,
    rho_mlp: Annotated[str | None, typer.Option(help=f"ρ of the neurons: {Values}.")] = None,
    gain_attn: Annotated[str | None, typer.Option(help="Instead of ρ: the largest gain of a head, likewise.")] = None,
    gain_mlp: Annotated[str | None, typer.Option(help="Instead of ρ: the largest gain of a neuron, likewise.")] = None,
    alpha: Annotated[str | None, typer.Option(help="α: a list or a range.")] = None,
    score: Annotated[list[str] | None, typer.Option(help="cosine, contrast or contribution (repeat it).")] = None,
    relative: o.Relative = False,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layers to edit: all, early, middle, late, 0%-67%, 2-5 (repeat it to try several)."),
    ] = None,
    strength: Annotated[str | None, typer.Option(help="Strengths of steering: a list or a range.")] = None,
    search: Annotated[
        Literal["optuna"] | None, typer.Option(help="Search within the grid's bounds instead of trying all.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of the search.", min=1)] = None,
    tolerance: Annotated[float, typer.Option(help="Mean utility that the edit may cost on the validation split.")] = 0.04,
    task_tolerance: Annotated[float, typer.Option(help="Accuracy that it may cost in any single task there.")] = 0.1,
    share: Annotated[
        Literal["auto", "always", "never"], typer.Option(help="Several settings in one forward pass; auto takes the faster way.")
    ] = "auto",
    method: o.Method = "difference-of-means",
    background: o.Background = None,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    no_chat_template: o.NoChatTemplate = False,
    truncate: o.Truncate = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted sweep of the same inputs.")] = False,
    seed: o.Seed = 0,
) -> None:
    """Measure a grid (or a search) of edits, a steering curve and controls, each setting on disk as soon as it is finished.

    By default a grid of gains, which means the same on any model, of two scores. Settings are chosen on the validation
    questions, and reported on the test questions: see s2e-lens compare.
    """
    from s2e_lens.behaviors import load_behavior
    from s2e_lens.cli.commands import _method
    from s2e_lens.cli.show import loaded, print_sweep
    from s2e_lens.errors import PlanError
    from s2e_lens.evaluation.sweep import STRENGTHS, Plan
    from s2e_lens.evaluation.tradeoff import Tolerance
    from s2e_lens.pipeline.sweeps import compare_sweep, write_comparison
    from s2e_lens.pipeline.sweeps import sweep as run_sweep
    from s2e_lens.results import Directions
    from s2e_lens.storage import load

    if (search is None) != (trials is None):
        raise PlanError("--search optuna and --trials N go together.")
    found = load_behavior(str(behavior), seed=seed)
    grid = _grid(model, found.name, preset, rho_attn, rho_mlp, gain_attn, gain_mlp, alpha, score, relative, layers)
    plan = Plan(
        grid,
        strengths=_numbers("--strength", strength) if strength else STRENGTHS,
        trials=trials,
        tolerance=Tolerance(tolerance, task_tolerance),
        seed=seed,
        truncate=truncate,
    )
    chosen = _method(method, background)
    given = None if directions is None else load(directions, Directions)
    lens = loaded(
        model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code, chat_template=not no_chat_template
    )
    done = run_sweep(
        lens,
        found,
        out,
        plan,
        directions=given,
        method=chosen,
        resume=resume,
        share={"auto": None, "always": True, "never": False}[share],
        progress=True,
    )
    result = compare_sweep(out)
    write_comparison(result, out)
    print_sweep(result, way=done.way)
    typer.echo(f"\nSweep: {out} (sweep.csv, comparison.json, tradeoff.html)")


def compare(
    sweep: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    out: Annotated[Path | None, typer.Option(help="Where to write comparison.json, points.csv and tradeoff.html.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Mean utility the edit may cost; default: the sweep's.")] = None,
    task_tolerance: Annotated[float | None, typer.Option(help="Accuracy it may cost in any task; default: the sweep's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the bootstrap.")] = None,
) -> None:
    """Choose an edit on the validation questions of a sweep; compare it with steering on the test questions. Needs no model."""
    from s2e_lens.cli.show import print_sweep
    from s2e_lens.evaluation.tradeoff import Tolerance
    from s2e_lens.pipeline.sweeps import compare_sweep, write_comparison

    result = compare_sweep(sweep, seed=seed)
    if tolerance is not None or task_tolerance is not None:
        own = result.tolerance
        given = Tolerance(own.utility if tolerance is None else tolerance, own.task if task_tolerance is None else task_tolerance)
        result = compare_sweep(sweep, tolerance=given, seed=seed)
    print_sweep(result)
    if out is not None:
        write_comparison(result, out)
        typer.echo(f"\nComparison: {out} (comparison.json, points.csv, tradeoff.html)")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from s2e_lens.errors import PlanError
    from s2e_lens.evaluation.settings import parse_values

    found = tuple(value for value in parse_values(text) if value is not None)
    if not found:
        raise PlanError(f"{option} {text!r} holds no number.")
    return found


def _grid(
    model: str,
    behavior: str,
    preset: str | None,
    rho_attn: str | None,
    rho_mlp: str | None,
    gain_attn: str | None,
    gain_mlp: str | None,
    alpha: str | None,
    score: list[str] | None,
    relative: bool,
    layers: list[str] | None,
) -> Any:
    """The grid that the options ask for."""
    import dataclasses

    from s2e_lens.errors import PlanError
    from s2e_lens.evaluation.settings import DEFAULT_GRID, Grid, parse_values
    from s2e_lens.evaluation.settings import preset as paper

    by_rho, by_gain = (any(each is not None for each in pair) for pair in ((rho_attn, rho_mlp), (gain_attn, gain_mlp)))
    if by_rho + by_gain + (preset is not None) > 1:
        raise PlanError("give ρ (--rho-attn, --rho-mlp), gains (--gain-attn, --gain-mlp) or --preset, and only one of these.")
    alphas = _numbers("--alpha", alpha) if alpha else None
    if preset is not None:
        grid = paper(model, behavior)
    elif by_rho or by_gain:
        attn, mlp = (rho_attn, rho_mlp) if by_rho else (gain_attn, gain_mlp)
        sites = [(None,) if each is None else parse_values(each) for each in (attn, mlp)]
        grid = Grid(sites[0], sites[1], DEFAULT_GRID.alphas, by="rho" if by_rho else "gain")
    else:
        grid = DEFAULT_GRID
    changes: dict[str, Any] = {"alphas": alphas, "scores": tuple(score) if score else None, "relative": relative or None}
    changes["layers"] = tuple(layers) if layers else None
    return dataclasses.replace(grid, **{name: value for name, value in changes.items() if value is not None})
