"""The tables of a report, as pandas frames and as the summary that other programs read."""

from typing import Any

import pandas as pd

from s2e_lens.editor.plan import SiteBasis
from s2e_lens.evaluation import Estimate
from s2e_lens.pipeline.measure import BASE, PERPLEXITY, Measurement
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
                "utility": each.utility,
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


def summary(outcome: Outcome) -> dict[str, Any]:
    """What ``summary.json`` holds: values per behaviour, the chosen settings, and provenance."""
    by_name = {each.condition: each for each in outcome.measurements}
    base, edit = by_name[BASE], by_name["edit"]
    steering = [each for each in outcome.measurements if each.strength is not None]
    behavior, settings = outcome.behavior, outcome.edit.provenance.settings
    doses = {site: outcome.basis[site].relative_dose(term) for site in SITES for term in outcome.edit[site]}
    provenance = outcome.edit.provenance
    return {
        "model": outcome.model.name,
        "behaviors": {
            behavior.name: {
                "attribute": {
                    "name": attribute_name(outcome),
                    "base": base.attribute.value,
                    "edit": edit.attribute.value,
                    "edit_change": [edit.change.value, edit.change.low, edit.change.high],
                    "steering": [[each.strength, each.attribute.value] for each in steering],
                    "items": base.attribute.items,
                },
                "utility": {
                    "name": behavior.utility.name if behavior.utility else PERPLEXITY,
                    "base": base.utility,
                    "edit": edit.utility,
                    "steering": [[each.strength, each.utility] for each in steering],
                },
                "kl": {"edit": edit.fluency.kl, "steering": [[each.strength, each.fluency.kl] for each in steering]},
                "edit": {
                    **{name: settings.get(name) for name in ("rho_attn", "rho_mlp", "alpha", "relative")},
                    "heads": outcome.edit.count("attn"),
                    "neurons": outcome.edit.count("mlp"),
                    "relative_dose": doses,
                    "update_norm": outcome.realised.norm,
                    "realised_fraction": outcome.realised.fraction,
                    "realised_error": outcome.realised.relative_error,
                },
                "examples": {
                    "train": len(behavior.train),
                    "validation": len(behavior.validation),
                    "test": len(behavior.test),
                },
            }
        },
        "provenance": {
            "weight_hash": provenance.weight_hash,
            "data_hash": provenance.data_hash,
            "dtype": provenance.dtype,
            "seed": provenance.seed,
            "method": outcome.directions.method,
            "versions": dict(provenance.versions),
        },
    }


def attribute_name(outcome: Outcome) -> str:
    """The name of the attribute metric that was used."""
    from s2e_lens.evaluation import response_margin

    return (outcome.behavior.attribute or response_margin).name
