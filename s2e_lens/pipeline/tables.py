"""The tables of a report, as pandas frames and as the summary that other programs read."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from s2e_lens.editor.plan import SiteBasis
from s2e_lens.evaluation import Estimate, response_margin
from s2e_lens.pipeline.choose import Choice
from s2e_lens.pipeline.measure import ACCURACY, BASE, EDIT, PERPLEXITY, Measurement
from s2e_lens.pipeline.run import Outcome
from s2e_lens.results import SITES, SiteEdit, component_label


def measurements_frame(measurements: list[Measurement]) -> pd.DataFrame:
    """One row per condition."""
    return pd.DataFrame(
        [
            {
                "condition": each.condition,
                "strength": each.strength,
                **_columns("attribute", each.attribute),
                **_columns("change", each.change),
                "items": each.attribute.items,
                **_columns("utility", each.utility),
                **_columns("utility_change", each.utility_change),
                **{f"task_{name}": task.value for name, task in each.tasks.items()},
                **{name: other.value for name, other in each.also.items()},
                "perplexity": each.fluency.perplexity,
                "kl": each.fluency.kl,
                "neutral_tokens": each.fluency.tokens,
            }
            for each in measurements
        ]
    )


def _columns(name: str, value: Estimate) -> dict[str, float | None]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def components_frame(outcome: Outcome) -> pd.DataFrame:
    """One row per edited component: score g, λ, gain λ/‖Wv̂‖, average push k·x̄ and dose λ k·x̄, largest dose first."""
    rows = []
    for site in SITES:
        for term in outcome.edit[site]:
            rows += _component_rows(term, outcome.basis[site], site)
    columns = ["label", "site", "layer", "index", "score", "lambda", "gain", "push", "dose"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("dose", ascending=False, kind="stable", ignore_index=True)


def _component_rows(term: SiteEdit, basis: SiteBasis, site: Any) -> list[tuple[Any, ...]]:
    layers, indices = term.lam.nonzero(as_tuple=True)
    columns = [
        x[layers, indices].tolist() for x in (basis.g, term.lam, term.lam / basis.reach, basis.push, term.lam * basis.push)
    ]
    places = zip(layers.tolist(), indices.tolist(), strict=True)
    return [
        (component_label(site, layer, index), site, layer, index, *values)
        for (layer, index), *values in zip(places, *columns, strict=True)
    ]


def site_frame(outcome: Outcome) -> pd.DataFrame:
    """One row per site and layer: ‖v‖, edited components, dose, dose over ‖v‖, ‖ΔW‖."""
    rows = []
    for site in SITES:
        basis = outcome.basis[site]
        for term in outcome.edit[site]:
            dose = basis.dose(term).tolist()
            for layer, norm in enumerate(basis.norm.tolist()):
                rows.append(
                    {
                        "site": site,
                        "layer": layer,
                        "norm_v": norm,
                        "edited": int((term.lam[layer] != 0).sum()),
                        "of": term.lam.shape[1],
                        "dose": dose[layer],
                        "dose_over_norm": dose[layer] / norm if norm else 0.0,
                        "norm_update": outcome.realised.planned.get((site, layer), 0.0),
                    }
                )
    return pd.DataFrame(rows)


def trials_frame(choice: Choice) -> pd.DataFrame:
    """One row per setting that was tried on the validation split, best attribute first."""
    rows = []
    for trial in choice.trials:
        settings = trial.edit.provenance.settings
        rows.append(
            {
                **{name: settings.get(name) for name in ("score", "rho_attn", "rho_mlp", "alpha", "relative")},
                "heads": trial.edit.count("attn"),
                "neurons": trial.edit.count("mlp"),
                "attribute": trial.attribute,
                "utility": trial.utility,
                "taken": trial is choice.taken,
            }
        )
    return pd.DataFrame(rows)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What ``summary.json`` holds: values per behaviour, the chosen settings, and provenance."""
    provenance = outcomes[0].edit.provenance
    return {
        "model": outcomes[0].model.name,
        "behaviors": {outcome.behavior.name: _behavior_summary(outcome) for outcome in outcomes},
        "provenance": {
            "weight_hash": provenance.weight_hash,
            "dtype": provenance.dtype,
            "seed": provenance.seed,
            "versions": dict(provenance.versions),
        },
    }


def _behavior_summary(outcome: Outcome) -> dict[str, Any]:
    by_name = {each.condition: each for each in outcome.measurements}
    base, edit = by_name[BASE], by_name[EDIT]
    steering = [each for each in outcome.measurements if each.strength is not None]
    behavior, settings = outcome.behavior, outcome.edit.provenance.settings
    doses = {site: outcome.basis[site].relative_dose(term) for site in SITES for term in outcome.edit[site]}

    def values(get: Callable[[Measurement], Estimate]) -> dict[str, Any]:
        return {
            "base": get(base).value,
            "edit": get(edit).value,
            "steering": [[each.strength, get(each).value] for each in steering],
            "intervals": {
                "base": _interval(get(base)),
                "edit": _interval(get(edit)),
                "steering": [[each.strength, _interval(get(each))] for each in steering],
            },
        }

    def changes(get: Callable[[Measurement], Estimate]) -> dict[str, Any]:
        return {
            "edit": [get(edit).value, *_interval(get(edit))],
            "steering": [[each.strength, get(each).value, *_interval(get(each))] for each in steering],
        }

    return {
        "attribute": {
            "name": attribute_name(outcome),
            **values(lambda each: each.attribute),
            "change": changes(lambda each: each.change),
            "higher_is_better": (behavior.attribute or response_margin).higher_is_better,
            "items": base.attribute.items,
        },
        "utility": {
            "name": utility_name(outcome),
            **values(lambda each: each.utility),
            "change": changes(lambda each: each.utility_change),
            "higher_is_better": bool(behavior.utility),
            "items": base.utility.items,
            "tasks": {name: values(lambda each, name=name: each.tasks[name]) for name in base.tasks},
        },
        "also": {name: values(lambda each, name=name: each.also[name]) for name in base.also},
        "perplexity": {
            "base": base.fluency.perplexity,
            "edit": edit.fluency.perplexity,
            "steering": [[each.strength, each.fluency.perplexity] for each in steering],
        },
        "kl": {"edit": edit.fluency.kl, "steering": [[each.strength, each.fluency.kl] for each in steering]},
        "edit": {
            **{name: settings.get(name) for name in ("rho_attn", "rho_mlp", "alpha", "relative", "score")},
            "heads": outcome.edit.count("attn"),
            "neurons": outcome.edit.count("mlp"),
            "relative_dose": doses,
            "update_norm": outcome.realised.norm,
            "realised_fraction": outcome.realised.fraction,
            "realised_error": outcome.realised.relative_error,
            "chosen_on": "validation" if outcome.choice else None,
        },
        "examples": {"train": len(behavior.train), "validation": len(behavior.validation), "test": len(behavior.test)},
        "data_hash": outcome.edit.provenance.data_hash,
        "method": outcome.directions.method,
    }


def _interval(value: Estimate) -> list[float | None]:
    return [value.low, value.high]


def attribute_name(outcome: Outcome) -> str:
    """The name of the attribute metric that was used."""
    return (outcome.behavior.attribute or response_margin).name


def utility_name(outcome: Outcome) -> str:
    """What utility is, for this behaviour."""
    return ACCURACY if outcome.behavior.utility else PERPLEXITY
