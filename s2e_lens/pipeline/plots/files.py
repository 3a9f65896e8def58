"""Kinds of figures that need files alone, and a model only where scores are to be computed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from s2e_lens.errors import PlanError
from s2e_lens.pipeline.plots.inputs import Asked, Drawn, Inputs, attributions_of, matching, need, of
from s2e_lens.pipeline.sweeps import compare_sweep, draw_comparison, sweep_changes
from s2e_lens.results import SITES, Attribution, Edit, Site
from s2e_lens.visualizers import (
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


def _lam(name: str, attribution: Attribution, edits: Mapping[str, Edit], site: Site) -> Tensor | None:
    """λ of the edit that belongs to scores; None without one."""
    edit = of(name, attribution, edits)
    if edit is None or not edit[site]:
        return None
    terms = edit[site]
    if len(terms) > 1 and not all(torch.equal(each.u, terms[0].u) for each in terms):
        raise PlanError(
            f"the edit {name!r} is a sum of {len(terms)} edits along different vectors: its λ do not add up. Give each by itself."
        )
    return torch.stack([term.lam for term in terms]).sum(dim=0)


def _edited(name: str, attribution: Attribution, edits: Mapping[str, Edit]) -> Tensor | None:
    """λ of the heads, or, for a sum of edits along different vectors, which heads any of them edits."""
    edit = of(name, attribution, edits)
    if edit is not None and len(edit.attn) > 1:
        return torch.stack([term.lam != 0 for term in edit.attn]).any(dim=0)
    return _lam(name, attribution, edits, "attn")


def _titled(name: str, attribution: Attribution) -> str:
    return f"{name}: {attribution.score}"


def heads(inputs: Inputs, asked: Asked) -> Drawn:
    """Scores of the heads, edited ones marked; λ itself where only edits came, of each term of a sum."""
    if not inputs.attributions and not inputs.directions:
        terms = {name: edit.attn for name, edit in need(inputs.edits, "scores, or an edit").items()}
        lams = {
            f"{name}, term {i}" if len(each) > 1 else name: term.lam
            for name, each in terms.items()
            for i, term in enumerate(each)
        }
        return {
            f"heads_{name.replace(', ', '_').replace(' ', '')}": draw_head_heatmap(
                head_heatmap_info(lam, edited=lam, name=f"{name}: λ")
            )
            for name, lam in need(lams, "an edit of heads").items()
        }
    return {
        f"heads_{name}": draw_head_heatmap(
            head_heatmap_info(each.heads, edited=_edited(name, each, inputs.edits), name=_titled(name, each))
        )
        for name, each in attributions_of(inputs, asked).items()
    }


def neurons(inputs: Inputs, asked: Asked) -> Drawn:
    """The top neurons as bars."""
    return {
        f"neurons_{name}": draw_neuron_ranking(
            neuron_ranking_info(each.neurons, k=asked.top, lam=_lam(name, each, inputs.edits, "mlp"), name=_titled(name, each))
        )
        for name, each in attributions_of(inputs, asked).items()
    }


def curves(inputs: Inputs, asked: Asked) -> Drawn:
    """Scores of the neurons by rank."""
    return {
        f"curves_{name}": draw_ranked_curves(
            ranked_curves_info(each.neurons, lam=_lam(name, each, inputs.edits, "mlp"), name=_titled(name, each))
        )
        for name, each in attributions_of(inputs, asked).items()
    }


def bins(inputs: Inputs, asked: Asked) -> Drawn:
    """All neurons in bins."""
    return {
        f"bins_{name}": draw_layer_bins(
            layer_bins_info(each.neurons, lam=_lam(name, each, inputs.edits, "mlp"), name=_titled(name, each))
        )
        for name, each in attributions_of(inputs, asked).items()
    }


def distribution(inputs: Inputs, asked: Asked) -> Drawn:
    """λ of heads and of neurons, edits side by side."""
    edits = need(inputs.edits, "edits")
    if inputs.sweeps:
        raise PlanError(
            f"the sweeps {', '.join(inputs.sweeps)} hold no edit file: give files of `s2e-lens edit`, or reports of run."
        )
    found: Drawn = {}
    for site, what in zip(SITES, ("heads", "neurons"), strict=True):
        there = {name: edit for name, edit in edits.items() if edit.count(site)}
        if there:
            found[f"distribution_{what}"] = draw_edit_distribution(edit_distribution_info(there, site=site))
    return found


def tradeoff(inputs: Inputs, asked: Asked) -> Drawn:
    """Attribute against utility of sweeps."""
    return {
        f"tradeoff_{name}": draw_comparison(compare_sweep(each))
        for name, each in need(inputs.sweeps, "the folder of a sweep").items()
    }


def changes(inputs: Inputs, asked: Asked) -> Drawn:
    """What the edit of a sweep changed, question by question."""
    sweeps = need(inputs.sweeps, "the folder of a sweep")
    return {f"changes_{name}": draw_changes(sweep_changes(compare_sweep(each))) for name, each in sweeps.items()}


def geometry(inputs: Inputs, asked: Asked) -> Drawn:
    """Norms and cosines of steering vectors."""
    info = geometry_info(need(inputs.directions, "directions"))
    found: Drawn = {
        "geometry_norms": draw_direction_norms(info),
        "geometry_layers": draw_direction_cosines(info, between="layers"),
        "geometry_sites": draw_direction_cosines(info, between="sites"),
    }
    if len(info.names) > 1:
        found["geometry_behaviors"] = draw_direction_cosines(info, between="behaviors")
    return found


def dose(inputs: Inputs, asked: Asked) -> Drawn:
    """Dose against score."""
    edits, directions = need(inputs.edits, "an edit"), need(inputs.directions, "directions (their means are x̄)")
    scores = attributions_of(inputs, asked)
    found: Drawn = {}
    for name, edit in edits.items():
        means, attribution = matching(name, edit, directions, "directions").means, matching(name, edit, scores, "scores")
        found[f"dose_{name}"] = draw_dose(dose_info(edit, means, attribution))
    return found
