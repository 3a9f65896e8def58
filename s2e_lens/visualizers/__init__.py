"""Figures: ``draw_x(x_info(...))``. The info is plain data that can be tested and saved; drawing gives a plotly figure."""

from s2e_lens.visualizers.heads import HeadHeatmap, draw_head_heatmap, head_heatmap_info
from s2e_lens.visualizers.neurons import NeuronRanking, draw_neuron_ranking, neuron_ranking_info
from s2e_lens.visualizers.response import Point, Response, draw_response, response_info
from s2e_lens.visualizers.saving import COLUMN, FULL, View, save_figure, save_figures
from s2e_lens.visualizers.style import HOUSE, PALETTE, plotly_js, to_html_fragment, write_html

__all__ = [
    "COLUMN",
    "FULL",
    "HOUSE",
    "PALETTE",
    "HeadHeatmap",
    "NeuronRanking",
    "Point",
    "Response",
    "View",
    "draw_head_heatmap",
    "draw_neuron_ranking",
    "draw_response",
    "head_heatmap_info",
    "neuron_ranking_info",
    "plotly_js",
    "response_info",
    "save_figure",
    "save_figures",
    "to_html_fragment",
    "write_html",
]
