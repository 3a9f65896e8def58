"""The report folder: one page that works offline, its figures, tables, edit and directions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from s2e_lens import storage
from s2e_lens.export.folder import new_folder
from s2e_lens.pipeline.drawing import comparison_tradeoff
from s2e_lens.pipeline.run import Outcome
from s2e_lens.pipeline.tables import (
    attribute_name,
    components_frame,
    controls_frame,
    label_of,
    measurements_frame,
    shown_change,
    shown_gain,
    shown_rows,
    site_frame,
    summary,
    trials_frame,
    utility_name,
)
from s2e_lens.results import SITES
from s2e_lens.visualizers import (
    draw_head_heatmap,
    draw_neuron_ranking,
    draw_tradeoff,
    head_heatmap_info,
    neuron_ranking_info,
    plotly_js,
    to_html_fragment,
    write_html,
)

SUMMARY = "summary.json"
PLOTLY = "plotly.min.js"
TOP = 20
TRIALS = 12
SCORE_TEXTS = {
    "cosine": "g = cos(v̂, W x̄), how much of what a component writes on average points along the steering vector.",
    "contribution": "g = v̂·W x̄, what a component writes along the steering vector on average.",
    "contrast": "g = v̂·W (x̄₊ − x̄₋), how much of the difference between the classes along the steering vector a component writes.",
}


def write_report(outcomes: Sequence[Outcome], out: str | Path) -> Path:
    """Write the report folder, whole or not at all; an earlier report at the same place is replaced.

    For one behaviour it holds ``report.html`` (self-contained), ``head_heatmap.html``, ``neuron_ranking.html`` and
    ``tradeoff.html`` (with ``plotly.min.js`` beside them), ``summary.json``, ``measurements.csv`` and ``.json``,
    ``controls.csv``, ``validation.csv`` (what was tried to choose the edit), ``components.csv``, ``layers.csv``,
    ``samples.json``, ``directions.safetensors`` and ``edit.safetensors``. For several, each has a folder of its own with
    these, beside one ``report.html`` and one ``summary.json`` over all.

    Raises:
        ExportError: if there is something else than an earlier report at ``out``.
        StorageError: if it cannot be written.
    """
    with new_folder(out, replace_if=SUMMARY) as folder:
        if len(outcomes) == 1:
            _write_one(outcomes[0], folder)
        else:
            for outcome in outcomes:
                (folder / outcome.behavior.name).mkdir()
                _write_one(outcome, folder / outcome.behavior.name)
            values = summary(outcomes)
            storage.write_json(folder / SUMMARY, values)
            page = (
                _environment()
                .get_template("index.html.jinja")
                .render(
                    model=outcomes[0].model,
                    outcomes=outcomes,
                    shown_rows=shown_rows,
                    shown_gain=shown_gain,
                    found=values["behaviors"],
                    command=outcomes[0].edit.provenance.command,
                )
            )
            storage.write_text(folder / "report.html", page)
    return Path(out)


def _write_one(outcome: Outcome, folder: Path) -> None:
    figures = draw_figures(outcome)
    tables = {
        "measurements": measurements_frame(outcome),
        "controls": controls_frame(outcome),
        "components": components_frame(outcome),
        "layers": site_frame(outcome),
    }
    if outcome.choice:
        tables["validation"] = trials_frame(outcome.choice)
    values = summary([outcome])
    storage.write_text(folder / PLOTLY, plotly_js())
    for name, figure in figures.items():
        title = f"{outcome.behavior.name} on {outcome.model.name}: {name.replace('_', ' ')}"
        write_html(figure, folder / f"{name}.html", title=title, plotly_file=PLOTLY)
    for name, table in tables.items():
        storage.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    storage.write_text(
        folder / "measurements.json", tables["measurements"].to_json(orient="records", indent=2, double_precision=15) or ""
    )
    storage.write_json(folder / "samples.json", outcome.samples)
    storage.write_json(folder / SUMMARY, values)
    storage.save(outcome.directions, folder / "directions.safetensors")
    storage.save(outcome.edit, folder / "edit.safetensors")
    storage.write_text(folder / "report.html", _page(outcome, figures, tables, values))


def draw_figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of the page, by file name."""
    lam = {site: torch.zeros_like(outcome.attribution[site]) for site in SITES}
    for site in SITES:
        for term in outcome.edit[site]:
            lam[site] += term.lam
    name = f"{outcome.attribution.score} score"
    tradeoff = comparison_tradeoff(
        outcome.comparison,
        attribute=attribute_name(outcome),
        utility=utility_name(outcome),
        label=partial(label_of, outcome),
    )
    return {
        "head_heatmap": draw_head_heatmap(head_heatmap_info(outcome.attribution.heads, edited=lam["attn"], name=name)),
        "neuron_ranking": draw_neuron_ranking(neuron_ranking_info(outcome.attribution.neurons, k=TOP, lam=lam["mlp"], name=name)),
        "tradeoff": draw_tradeoff(tradeoff),
    }


def _environment() -> Environment:
    return Environment(loader=PackageLoader("s2e_lens.pipeline", "."), autoescape=select_autoescape(["jinja"]))


def _page(outcome: Outcome, figures: dict[str, Any], tables: dict[str, Any], values: dict[str, Any]) -> str:
    (found,) = values["behaviors"].values()
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            model=outcome.model,
            behavior=outcome.behavior,
            found=found,
            provenance=values["provenance"],
            command=outcome.edit.provenance.command,
            rows=shown_rows(outcome),
            comparison=outcome.comparison,
            shown_gain=shown_gain,
            shown_change=shown_change,
            controls=tables["controls"].to_dict("records"),
            choice=outcome.choice,
            score_text=SCORE_TEXTS.get(outcome.attribution.score, outcome.attribution.score),
            trials=tables["validation"].head(TRIALS).to_dict("records") if outcome.choice else [],
            layers=tables["layers"].to_dict("records"),
            components=tables["components"].head(TOP).to_dict("records"),
            component_count=len(tables["components"]),
            samples=outcome.samples,
            truncated=outcome.truncated,
            conditions=[name for name in (outcome.samples[0] if outcome.samples else {}) if name != "prompt"],
            realised=outcome.realised,
            figures={name: Markup(to_html_fragment(figure, div_id=name)) for name, figure in figures.items()},
            plotly_js=Markup(plotly_js()),
        )
    )
