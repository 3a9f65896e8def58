"""The tables of a report, as pandas frames and as the summary that other programs read."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from s2e_lens.editor.plan import SiteBasis
from s2e_lens.evaluation import Estimate, estimate, response_margin
from s2e_lens.evaluation.comparison import Control, Point, gains_json, interval_columns
from s2e_lens.evaluation.tradeoff import Gain
from s2e_lens.pipeline.choose import Choice
from s2e_lens.pipeline.run import BASE_LABEL, Outcome
from s2e_lens.results import SITES, SiteEdit, component_label

PERPLEXITY = "perplexity of neutral text"
ACCURACY = "mean accuracy of the utility tasks"


def label_of(outcome: Outcome, point: Point) -> str:
    """What a table calls a condition."""
    found = outcome.comparison
    if point is found.base:
        return BASE_LABEL
    if point is found.edit:
        return "edit"
    if point.setting.method == "edit":
        scales = [each.setting.options.get("scale", 1.0) for each in (point, found.edit)]
        return f"edit, λ × {scales[0] / scales[1]:g}"
    return point.setting.label


def measurements_frame(outcome: Outcome) -> pd.DataFrame:
    """One row per condition."""
    return pd.DataFrame(
        [
            {
                "condition": label_of(outcome, each),
                "strength": each.setting.strength,
                **interval_columns("attribute", each.attribute),
                **interval_columns("change", each.change),
                "items": each.attribute.items,
                **interval_columns("utility", each.utility),
                **interval_columns("utility_change", each.utility_change),
                **{f"task_{name}": float(values.mean()) for name, values in each.items.tasks.items()},
                **{name: float(values.mean()) for name, values in each.items.also.items()},
                "perplexity": each.items.perplexity,
                "kl": each.items.kl,
                "degenerate": each.items.degenerate,
                "neutral_tokens": int(each.items.tokens.sum()),
            }
            for each in outcome.points
        ]
    )


def controls_frame(outcome: Outcome) -> pd.DataFrame:
    """One row per control: what it changes, and how far it is behind the edit (positive is better)."""
    return pd.DataFrame(
        [
            {
                "control": control_label(each),
                "method": each.setting.method,
                "change": each.change.value,
                "change_low": each.change.low,
                "change_high": each.change.high,
                "edit_ahead": each.behind.value,
                "edit_ahead_low": each.behind.low,
                "edit_ahead_high": each.behind.high,
                "p": each.behind.p,
                "utility_change": each.point.utility_change.value,
                "kl": None if each.setting.method == "system prompt" else each.point.items.kl,
            }
            for each in outcome.comparison.controls
        ]
    )


def control_label(control: Control) -> str:
    """A control's name with what tells it from others of its kind."""
    o = control.setting.options
    parts = [str(control.setting.method), *([f"{o['strength']:g}"] if o.get("strength") is not None else [])]
    return " ".join(parts) + (f", seed {o['seed']}" if o.get("seed") is not None else "")


def shown_change(value: Estimate) -> str:
    """A change with its interval, as text."""
    interval = f" [{value.low:+.3f}, {value.high:+.3f}]" if value.low is not None else ""
    return f"{value.value:+.3f}{interval}"


def shown_gain(gain: Gain) -> str:
    """A gain with its interval and p-value, or why there is none."""
    if gain.value is None:
        return f"none: {gain.note}"
    p = f"p = {gain.p:.2g}" if gain.p is not None and gain.p >= 0.001 else "p < 0.001"
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {p}"


def shown_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The conditions as rows of text, for pages and terminals."""
    rows = []
    for each in outcome.points:
        base = each is outcome.comparison.base
        rows.append(
            {
                "label": label_of(outcome, each),
                "edit": each is outcome.comparison.edit,
                "attribute": f"{each.attribute.value:.3f}",
                "change": "–" if base else shown_change(each.change),
                "utility": f"{each.utility.value:.3f}",
                "utility_change": "–" if base else shown_change(each.utility_change),
                "perplexity": f"{each.items.perplexity:.3f}",
                "kl": f"{each.items.kl:.4f}",
                "degenerate": f"{each.items.degenerate:.1%}",
                "tasks": [f"{values.mean():.3f}" for values in (*each.items.tasks.values(), *each.items.also.values())],
            }
        )
    return rows


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
                **{name: settings.get(name) for name in ("score", "layers", "rho_attn", "rho_mlp", "alpha", "relative")},
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
    found = outcome.comparison
    base, edit, steering = found.base, found.edit, found.curve
    behavior, settings = outcome.behavior, outcome.edit.provenance.settings
    doses = {
        site: sum(outcome.basis[site].relative_dose(term) for term in outcome.edit[site]) for site in SITES if outcome.edit[site]
    }

    def values(get: Callable[[Point], Estimate]) -> dict[str, Any]:
        return {
            "base": get(base).value,
            "edit": get(edit).value,
            "steering": [[each.setting.strength, get(each).value] for each in steering],
            "intervals": {
                "base": _interval(get(base)),
                "edit": _interval(get(edit)),
                "steering": [[each.setting.strength, _interval(get(each))] for each in steering],
            },
        }

    def changes(get: Callable[[Point], Estimate]) -> dict[str, Any]:
        return {
            "edit": [get(edit).value, *_interval(get(edit))],
            "steering": [[each.setting.strength, get(each).value, *_interval(get(each))] for each in steering],
        }

    def plain(get: Callable[[Point], float]) -> dict[str, Any]:
        return {"base": get(base), "edit": get(edit), "steering": [[each.setting.strength, get(each)] for each in steering]}

    return {
        "attribute": {
            "name": attribute_name(outcome),
            **values(lambda each: each.attribute),
            "change": changes(lambda each: each.change),
            "higher_is_better": found.higher_is_better,
            "items": base.attribute.items,
        },
        "utility": {
            "name": utility_name(outcome),
            **values(lambda each: each.utility),
            "change": changes(lambda each: each.utility_change),
            "higher_is_better": bool(behavior.utility),
            "items": base.utility.items,
            "tasks": {name: values(lambda each, name=name: estimate(each.items.tasks[name])) for name in base.items.tasks},
        },
        "also": {name: values(lambda each, name=name: estimate(each.items.also[name])) for name in base.items.also},
        "perplexity": plain(lambda each: each.items.perplexity),
        "kl": plain(lambda each: each.items.kl),
        "degenerate": plain(lambda each: each.items.degenerate),
        **gains_json(found),
        "edit": {
            **{name: settings.get(name) for name in ("rho_attn", "rho_mlp", "alpha", "relative", "score", "layers")},
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
