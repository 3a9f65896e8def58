"""Figures: ``draw_x(x_info(...))``. The info is plain data that can be tested and saved; drawing gives a plotly figure."""

from s2e_lens.visualizers.bins import LayerBins, draw_layer_bins, layer_bins_info
from s2e_lens.visualizers.curves import RankedCurves, draw_ranked_curves, ranked_curves_info
from s2e_lens.visualizers.distribution import EditDistribution, draw_edit_distribution, edit_distribution_info
from s2e_lens.visualizers.dose import Dose, dose_info, draw_dose
from s2e_lens.visualizers.geometry import Geometry, geometry_info
from s2e_lens.visualizers.geometry_plot import draw_direction_cosines, draw_direction_norms
from s2e_lens.visualizers.heads import HeadHeatmap, draw_head_heatmap, head_heatmap_info
from s2e_lens.visualizers.neurons import NeuronRanking, draw_neuron_ranking, neuron_ranking_info, neuron_table
from s2e_lens.visualizers.style import HOUSE, PALETTE, plotly_js, to_html_fragment, write_html
from s2e_lens.visualizers.tradeoff import Point, TradeOff, tradeoff_info
from s2e_lens.visualizers.tradeoff_plot import draw_tradeoff

__all__ = [
    "Dose",
    "EditDistribution",
    "Geometry",
    "HOUSE",
    "HeadHeatmap",
    "LayerBins",
    "NeuronRanking",
    "PALETTE",
    "Point",
    "RankedCurves",
    "TradeOff",
    "dose_info",
    "draw_direction_cosines",
    "draw_direction_norms",
    "draw_dose",
    "draw_edit_distribution",
    "draw_head_heatmap",
    "draw_layer_bins",
    "draw_neuron_ranking",
    "draw_ranked_curves",
    "draw_tradeoff",
    "edit_distribution_info",
    "geometry_info",
    "head_heatmap_info",
    "layer_bins_info",
    "neuron_ranking_info",
    "neuron_table",
    "plotly_js",
    "ranked_curves_info",
    "to_html_fragment",
    "tradeoff_info",
    "write_html",
]
