"""What the commands print: loading a model with a word about it, and short tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils import logging as transformers_logging

from s2e_lens.editor import EditBasis, Realised
from s2e_lens.evaluation import Comparison
from s2e_lens.evaluation.comparison import control_means
from s2e_lens.models import LensModel, load_model
from s2e_lens.pipeline import Outcome
from s2e_lens.pipeline.sweeps import SweepResult
from s2e_lens.pipeline.tables import attribute_name, shown_change, shown_gain, shown_rows, utility_name
from s2e_lens.results import SITES, Attribution, Directions, Edit, Site, component_label
from s2e_lens.storage import save, write_text

TABLE_WIDTH = 160
"""A narrower terminal breaks a line of a table; rich would cut numbers off."""

STRONG_DOSE = 3.0
"""Dose over ‖v‖ above which a plan is warned of."""

_out = Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
_err = Console(stderr=True, highlight=False)


def loaded(
    name: str, *, device: str | None, dtype: str, revision: str | None, trust: bool, chat_template: bool = True
) -> LensModel:
    """Load a model and say what it is, on standard error."""
    transformers_logging.disable_progress_bar()
    model = load_model(name, device=device, dtype=dtype, revision=revision, chat_template=chat_template, trust_remote_code=trust)
    shapes = model.shapes
    dtype_name = str(model.dtype).removeprefix("torch.")
    _err.print(
        f"{model.name}: {shapes.n_layers} layers, {shapes.n_heads} heads of {shapes.d_head}, "
        f"{shapes.d_mlp or 'no'} neurons, d_model {shapes.d_model}, {dtype_name} on {model.device}"
    )
    if model.carries_edit:
        _err.print(f"[yellow]These weights already carry an edit: {escape(model.carries_edit)}[/yellow]")
    return model


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _out.print(f"[italic]{escape(title)}[/italic]")
    _out.print(table)


def print_truncated(count: int) -> None:
    """Say that examples were cut, if any were."""
    if count:
        _err.print(f"{count} examples were cut to fit the context.")


def print_directions(directions: Directions) -> None:
    """Norms of the steering vectors per layer, and the counts of examples."""
    means = directions.means
    columns = ["layer", "‖v‖ attn", "‖v‖ mlp"]
    norms = zip(directions.attn.norm.tolist(), directions.mlp.norm.tolist(), strict=True)
    rows = [[str(layer), f"{attn:.4g}", f"{mlp:.4g}"] for layer, (attn, mlp) in enumerate(norms)]
    title = f"{directions.method}, {means.positive.count} positive and {means.negative.count} negative examples"
    _table(title, columns, rows)


def print_components(attribution: Attribution, top: int, site: Site | None) -> None:
    """The highest-scoring components, ranked."""
    rows = [
        [str(rank), component.label, component.site, f"{component.score:+.4f}"]
        for rank, component in enumerate(attribution.top(top, site=site), start=1)
    ]
    _table(f"{attribution.score} score", ["rank", "component", "site", "score"], rows)


def write_attribution(attribution: Attribution, out: Path) -> None:
    """All scores: a table when the name ends in .csv, else safetensors."""
    if out.suffix != ".csv":
        save(attribution, out)
        return
    columns = ["label", "site", "layer", "index", attribution.score]
    rows = [
        (component_label(site, layer, index), site, layer, index, score)
        for site in SITES
        for layer, scores in enumerate(attribution[site].tolist())
        for index, score in enumerate(scores)
    ]
    write_text(out, pd.DataFrame(rows, columns=columns).to_csv(index=False))


def print_plan(basis: EditBasis, edit: Edit, realised: Realised | None = None, *, title: str = "") -> None:
    """The settings of an edit, and per site its counts, gains and dose."""
    settings = edit.provenance.settings
    rows = []
    for site in SITES:
        rho: Any = settings.get(f"rho_{site}")
        for term in edit[site]:
            gain = torch.where(term.lam != 0, term.lam.abs() / basis[site].reach.clamp_min(1e-30), 0.0)
            edited = gain[gain > 0]
            rows.append(
                [
                    site,
                    "–" if rho is None else f"{rho:.4g}",
                    f"{term.count} of {term.lam.numel()}",
                    f"{edited.median():.3f}" if len(edited) else "–",
                    f"{edited.max():.3f}" if len(edited) else "–",
                    f"{basis[site].relative_dose(term):.3f}",
                ]
            )
    strong = [site for site in SITES for term in edit[site] if basis[site].relative_dose(term) > STRONG_DOSE]
    if not edit.touched():
        _err.print("[yellow]This edit changes nothing: no component is above its threshold. Lower ρ or α.[/yellow]")
    form = "relative" if settings.get("relative") else "absolute"
    alpha = "–" if settings.get("alpha") is None else f"{settings['alpha']:.4g}"
    where = f", layers {', '.join(map(str, settings['layers']))}" if settings.get("layers") else ""
    columns = ["site", "ρ", "edited", "median gain", "largest gain", "dose / ‖v‖"]
    _table(
        f"{f'{title}, ' if title else ''}edit: {settings.get('score')} score, α = {alpha}, {form} λ{where}",
        columns,
        rows,
    )
    if strong:
        _err.print(
            f"[yellow]This is a strong edit: its dose at {' and '.join(strong)} is over {STRONG_DOSE:g} times the "
            "steering vector, and may well break the model. Raise ρ, or ask for a --dose.[/yellow]"
        )
    if realised is not None:
        _out.print(f"{realised.fraction:.2%} of the update realised (relative error {realised.relative_error:.2g})")


def print_measurements(outcome: Outcome) -> None:
    """Attribute and utility with their changes, and KL, one row per condition; then how the edit compares."""
    keys = ("label", "attribute", "change", "utility", "utility_change", "kl")
    rows = [[row[key] for key in keys] for row in shown_rows(outcome)]
    items = outcome.comparison.base.attribute.items
    title = f"\n{outcome.behavior.name}: {attribute_name(outcome)} ({items} held-out items), utility: {utility_name(outcome)}"
    _table(title, ["condition", "attribute", "change [95 %]", "utility", "change [95 %]", "KL"], rows)
    print_comparison(outcome.comparison)


def print_comparison(found: Comparison) -> None:
    """The gains at matched utility and KL, and the controls."""
    better = "" if found.higher_is_better else ", signed so that positive is better"
    _out.print(f"edit against steering{better} ({found.tried} settings tried):")
    for name, gain in (("utility", found.at_utility), ("KL", found.at_kl)):
        _out.print(f"  at matched {name:<8} {shown_gain(gain)}")
    for name, gain in zip(("utility", "KL"), found.same_layers or (), strict=False):
        _out.print(f"  at matched {name:<8} {shown_gain(gain)} (steering of the edit's layers alone)")
    for name, (change, ahead, runs) in control_means(found).items():
        times = f", mean of {runs}" if runs > 1 else ""
        _out.print(f"  {name + ':':<19} {change:+.3f}; the edit is ahead by {ahead:+.3f}{times}")


def print_sweep(result: SweepResult, *, way: str = "") -> None:
    """The trade-off on the test split, and how the edit compares."""
    found = result.comparison
    base = found.base
    name = str(result.manifest["attribute"])
    if way:
        _err.print(f"Measured with {way}", soft_wrap=True)
    rows = []
    for each in [base, *found.edits, *found.curve]:
        mark = " ←" if each is found.edit else ""
        rows.append(
            [
                ("unedited" if each is base else each.setting.label) + mark,
                f"{each.attribute.value:.3f}",
                "–" if each is base else shown_change(each.change),
                f"{each.utility.value:.3f}",
                "–" if each is base else shown_change(each.utility_change),
                f"{each.items.kl:.4f}",
                f"{each.items.degenerate:.1%}",
            ]
        )
    items = f"{base.attribute.items} items"
    title = f"\n{result.manifest['behavior']}, test questions: {name} ({items}); ← chosen on the validation questions"
    _table(title, ["setting", "attribute", "change [95 %]", "utility", "change [95 %]", "KL", "degenerate"], rows)
    print_comparison(found)
    if found.steering is not None and found.selected is not None:
        lead = found.selected
        _out.print(
            f"  steering {found.steering.setting.strength:g}, chosen by the same rule: the edit is ahead by "
            f"{lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        )
