"""Figures: ``draw_x(x_info(...))``. The info is plain data that can be tested and saved; drawing gives a plotly figure."""

from s2e_lens.visualizers.bins import LayerBins, draw_layer_bins, layer_bins_info
from s2e_lens.visualizers.changes import Change, Changes, changes_info, changes_table
from s2e_lens.visualizers.changes_plot import draw_changes
from s2e_lens.visualizers.curves import RankedCurves, draw_ranked_curves, ranked_curves_info
from s2e_lens.visualizers.distribution import EditDistribution, draw_edit_distribution, edit_distribution_info
from s2e_lens.visualizers.dose import Dose, dose_info, draw_dose
from s2e_lens.visualizers.embedding import TokenView, circuitsvis_js, view_style, views_page, write_views
from s2e_lens.visualizers.geometry import Geometry, geometry_info
from s2e_lens.visualizers.geometry_plot import draw_direction_cosines, draw_direction_norms
from s2e_lens.visualizers.heads import HeadHeatmap, draw_head_heatmap, head_heatmap_info
from s2e_lens.visualizers.lens import (
    EffectTable,
    LensTable,
    NextTable,
    draw_logit_effects,
    draw_logit_lens,
    draw_next_tokens,
    logit_effects_info,
    logit_lens_info,
    next_tokens_info,
)
from s2e_lens.visualizers.neurons import NeuronRanking, draw_neuron_ranking, neuron_ranking_info, neuron_table
from s2e_lens.visualizers.style import HOUSE, PALETTE, plotly_js, to_html_fragment, write_html
from s2e_lens.visualizers.tokens import (
    AttentionPatterns,
    TextActivations,
    TokenValues,
    attention_info,
    firing_info,
    firing_total_info,
    projection_info,
    text_activations_info,
    token_values_info,
    view_attention,
    view_text_activations,
    view_token_values,
)
from s2e_lens.visualizers.tradeoff import Point, TradeOff, tradeoff_info
from s2e_lens.visualizers.tradeoff_plot import draw_tradeoff

__all__ = [
    "AttentionPatterns",
    "Change",
    "Changes",
    "Dose",
    "EditDistribution",
    "EffectTable",
    "Geometry",
    "HOUSE",
    "HeadHeatmap",
    "LayerBins",
    "LensTable",
    "NeuronRanking",
    "NextTable",
    "PALETTE",
    "Point",
    "RankedCurves",
    "TextActivations",
    "TokenValues",
    "TokenView",
    "TradeOff",
    "attention_info",
    "changes_info",
    "changes_table",
    "circuitsvis_js",
    "dose_info",
    "draw_changes",
    "draw_direction_cosines",
    "draw_direction_norms",
    "draw_dose",
    "draw_edit_distribution",
    "draw_head_heatmap",
    "draw_layer_bins",
    "draw_logit_effects",
    "draw_logit_lens",
    "draw_neuron_ranking",
    "draw_next_tokens",
    "draw_ranked_curves",
    "draw_tradeoff",
    "edit_distribution_info",
    "firing_info",
    "firing_total_info",
    "geometry_info",
    "head_heatmap_info",
    "layer_bins_info",
    "logit_effects_info",
    "logit_lens_info",
    "neuron_ranking_info",
    "neuron_table",
    "next_tokens_info",
    "plotly_js",
    "projection_info",
    "ranked_curves_info",
    "text_activations_info",
    "to_html_fragment",
    "token_values_info",
    "tradeoff_info",
    "view_attention",
    "view_style",
    "view_text_activations",
    "view_token_values",
    "views_page",
    "write_html",
    "write_views",
]
