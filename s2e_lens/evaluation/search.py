"""Searching edits with Optuna: attribute against utility, seeded, resumable from what is on disk."""

from typing import Any

from s2e_lens.errors import PlanError
from s2e_lens.evaluation.settings import Grid, Setting
from s2e_lens.evaluation.sweep import Sweep

START = 10
"""Trials drawn at random before the sampler begins to learn."""

AT_ONCE = 4
"""Trials that are asked for together, so that they can share forward passes."""


def search(sweep: Sweep) -> None:
    """Measure ``plan.trials`` edits on the validation split, chosen one batch after the other by a multi-objective TPE sampler.

    The grid gives the bounds: values between its smallest and largest (on a log scale), α between its own, a site left out if
    the grid has None for it. Batch by batch the study is built anew from what is finished, so a resumed search asks for what
    an uninterrupted one would have.

    Raises:
        PlanError: if Optuna is not installed.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PlanError(
            'searching needs Optuna: pip install "s2e-lens[search]", or leave --search out to try the whole grid.'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done: list[tuple[Any, tuple[float, float]]] = []
    trials = sweep.plan.trials or 0
    while len(done) < trials:
        sampler = optuna.samplers.TPESampler(
            seed=sweep.plan.seed + len(done), n_startup_trials=START, multivariate=False, constant_liar=True
        )
        study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        study.add_trials([trial for trial, _ in done])
        asked = [study.ask() for _ in range(min(AT_ONCE, trials - len(done)))]
        settings = [suggest(trial, sweep.plan.grid, sweep) for trial in asked]
        records = sweep.measure(settings, "validation")
        by_key = {record.setting.key: record for record in records}
        for trial, setting in zip(asked, settings, strict=True):
            ((attribute, utility),) = sweep.points([by_key[setting.key]])
            study.tell(trial, [attribute, utility])
            done.append((study.trials[trial.number], (attribute, utility)))


def suggest(trial: Any, grid: Grid, sweep: Sweep) -> Setting:
    """One edit within the bounds of a grid."""
    score = trial.suggest_categorical("score", list(grid.scores))
    sites: dict[str, float | None] = {}
    for site, values in (("attn", grid.attn), ("mlp", grid.mlp)):
        numbers = [value for value in values if value is not None]
        possible = sweep.bench.model.shapes.components("attn" if site == "attn" else "mlp")[0] > 0
        if not numbers or not possible or None in values and not trial.suggest_categorical(f"use_{site}", [True, False]):
            sites[site] = None
        else:
            sites[site] = trial.suggest_float(site, min(numbers), max(numbers), log=min(numbers) < max(numbers))
    if not any(sites.values()):  # both left out by the draw: the first site that can be edited is used
        site = "mlp" if any(grid.mlp) and sweep.bench.model.shapes.d_mlp else "attn"
        numbers = [value for value in (grid.mlp if site == "mlp" else grid.attn) if value is not None]
        if not numbers:
            raise PlanError(f"the grid leaves both sites out: {grid}.")
        sites[site] = trial.suggest_float(f"{site}_alone", min(numbers), max(numbers), log=min(numbers) < max(numbers))
    alpha = trial.suggest_float("alpha", min(grid.alphas), max(grid.alphas))
    layers = trial.suggest_categorical("layers", list(grid.layers))
    edit = sweep.bench.plan(score, sites["attn"], sites["mlp"], alpha, by=grid.by, relative=grid.relative, layers=layers)
    return Setting.of_edit(edit)
