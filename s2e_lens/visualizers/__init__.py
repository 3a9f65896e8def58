"""Figures: ``draw_x(x_info(...))``. The info is plain data that can be tested and saved; drawing gives a plotly figure."""

from s2e_lens.visualizers.heads import HeadHeatmap, draw_head_heatmap, head_heatmap_info
from s2e_lens.visualizers.neurons import NeuronRanking, draw_neuron_ranking, neuron_ranking_info
from s2e_lens.visualizers.style import HOUSE, PALETTE, plotly_js, to_html_fragment, write_html
from s2e_lens.visualizers.tradeoff import Point, TradeOff, tradeoff_info
from s2e_lens.visualizers.tradeoff_plot import draw_tradeoff

__all__ = [
    "HOUSE",
    "PALETTE",
    "HeadHeatmap",
    "NeuronRanking",
    "Point",
    "TradeOff",
    "draw_head_heatmap",
    "draw_neuron_ranking",
    "draw_tradeoff",
    "head_heatmap_info",
    "neuron_ranking_info",
    "plotly_js",
    "to_html_fragment",
    "tradeoff_info",
    "write_html",
]
