"""The house style of our figures, and their way into HTML pages that work without a network."""

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io
from jaxtyping import Float
from plotly.colors import diverging, sequential
from plotly.offline import get_plotlyjs
from torch import Tensor

from s2e_lens.errors import ShapeError
from s2e_lens.storage import write_text

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; the strongest on white come first."""

DIVERGING: tuple[str, ...] = tuple(diverging.RdBu)
"""Red (negative) over white to blue (positive). Written out: plotly.js itself means the reverse by "RdBu"."""

SEQUENTIAL: tuple[str, ...] = tuple(sequential.Viridis[:9])
"""Dark blue to light green, without the yellow that is lost on white: for layers and counts."""

POSITIVE, NEGATIVE = DIVERGING[-2], DIVERGING[1]
"""The blue and the red of a bar."""

EDITED = {"color": "black", "symbol": "circle", "line": {"color": "white", "width": 1}}
"""The marker of an edited component: it can be seen on white, on dark blue and on dark red."""

TOP = 62
"""Room for a colour bar with a title of one line above a plot, in pixels."""

_AXIS = {
    "automargin": True,
    "gridcolor": "#e4e4e4",
    "linecolor": "#666666",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#666666",
    "ticklen": 4,
    "title": {"standoff": 8, "font": {"size": 13}},
    "zeroline": False,
}

HOUSE = go.layout.Template(
    layout={
        "autosize": True,
        "dragmode": False,  # a finger on a figure scrolls the page
        "colorway": PALETTE,
        "font": {"family": "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif", "size": 12, "color": "#222222"},
        "hoverlabel": {"font": {"size": 13}},
        "legend": {"font": {"size": 12}, "bgcolor": "rgba(255,255,255,0)"},
        "margin": {"l": 40, "r": 16, "t": 36, "b": 40},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
"""Our template; every figure carries it, and plotly's own default stays as it is."""

_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "autoScale2d", "resetScale2d"]]}
# Few buttons: they must not cover a narrow figure, and none of them may offer to send the data anywhere.

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 8px; background: white; }}</style>
{script}
</head>
<body>
{fragment}
</body>
</html>
"""


def plain(text: str, *, width: int = 1000) -> str:
    """Text that plotly shows as it is, instead of reading it as HTML; broken into lines of at most ``width`` characters.

    >>> plain("a < b"), plain("cosine with the direction", width=12)
    ('a &lt; b', 'cosine with<br>the<br>direction')
    """
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, width))


def as_matrix(values: Tensor, *, what: str, like: Sequence[int] | None = None) -> Float[np.ndarray, "row column"]:
    """Finite values of a tensor [row, column] (of the same shape as ``like``) as a float32 array.

    Raises:
        ShapeError: if the tensor has another shape, no rows, or holds NaN or infinity.
    """
    shape = tuple(values.shape)
    if len(shape) != 2 or shape[0] == 0:
        raise ShapeError(f"{what} came with shape {list(shape)}; a tensor [layer, component] with at least one layer is needed.")
    if like is not None and shape != tuple(like):
        raise ShapeError(f"{what} came with shape {list(shape)}; {list(like)} is needed, the shape of the scores.")
    array = values.detach().float().cpu().numpy()
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ShapeError(f"{what} hold NaN or infinity (first at layer {row}, index {column}); finite values are needed.")
    return array


def x_title(text: str, *, axis: str = "", away: int = 24) -> dict[str, object]:
    """The title of an x axis as an annotation, so many pixels below it.

    With fixed margins plotly 7 writes some axis titles of its own over the numbers, or into the plot.
    """
    place = {"xref": f"x{axis} domain", "x": 0.5, "yref": f"y{axis} domain", "y": 0, "yanchor": "top", "yshift": -away}
    return {"text": text, "showarrow": False, "font": {"size": 13}, **place}


def y_title(text: str, *, axis: str = "", away: int = 46) -> dict[str, object]:
    """The title of a y axis as an annotation whose middle is so many pixels to the left of it; see :func:`x_title`."""
    place = {"xref": f"x{axis} domain", "x": 0, "xanchor": "center", "xshift": -away, "yref": f"y{axis} domain", "y": 0.5}
    return {"text": text, "showarrow": False, "font": {"size": 13}, "textangle": -90, "yanchor": "middle", **place}


def tick_step(count: int, *, most: int = 12) -> int:
    """The distance of the numbers of an axis of so many layers or heads: at most about ``most`` of them."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, count) if count <= most * step)


def bar_above(
    title: str, ticks: Sequence[float | int], *, width: int = 220, texts: Sequence[str] | None = None
) -> dict[str, object]:
    """A colour bar that lies above the plot, at its left; it needs ``TOP`` pixels, and 17 for each further line of its title."""
    named = {"ticktext": list(texts)} if texts is not None else {"tickformat": ".2~g"}
    return {
        "title": {"text": title, "side": "top", "font": {"size": 13}},
        "orientation": "h",
        "thickness": 12,
        "lenmode": "pixels",
        "len": width,
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 1,
        "yanchor": "bottom",
        "ypad": 6,
        "tickvals": np.array(ticks, dtype=np.float32),
        **named,
    }


def legend_below(names: Sequence[str], plot: float, *, above: float = 46.0, columns: int = 2) -> tuple[dict[str, object], int]:
    """A legend in columns under the plot, and the bottom margin that it needs.

    Args:
        names: its entries; ``<br>`` breaks one into lines. In two columns of a figure 320 pixels wide a line has room for about
            16 characters, in one for 34.
        plot: height of the plot in pixels.
        above: room for the axis's numbers and title, in pixels.
        columns: how many; a single one has room for long names.
    """
    lines = [name.count("<br>") + 1 for name in names]
    height = sum(6 + 14 * max(lines[i : i + columns]) for i in range(0, len(lines), columns))
    legend = {
        "orientation": "h",
        "x": 0,
        "y": -above / plot,
        "yanchor": "top",
        "font": {"size": 11},
        "entrywidth": 1 / columns,
        "entrywidthmode": "fraction",
        "indentation": -9,
    }
    return legend, round(above + height + (8 if names else 0))


def to_html_fragment(figure: go.Figure, *, div_id: str | None = None) -> str:
    """The figure as a ``<div>`` for a page that holds ``plotly_js()`` once. It fits the width it is given.

    Args:
        figure: what to show.
        div_id: the id in the page; a fixed one makes the page the same at each run, without it a random one is taken.
    """
    return plotly.io.to_html(figure, config=_CONFIG, include_plotlyjs=False, full_html=False, div_id=div_id)


def plotly_js() -> str:
    """The source of plotly.js (about 5 MB), to be inlined once per page in a ``<script>``."""
    return get_plotlyjs()


def write_html(figure: go.Figure, path: str | Path, *, title: str = "s2e_lens", plotly_file: str | None = None) -> None:
    """Write one figure as a page that needs no network, whole or not at all.

    The page needs no other file either, unless ``plotly_file`` names one beside it that holds :func:`plotly_js`: pages that
    share it are 5 MB smaller each.
    """
    source = f'<script src="{html.escape(plotly_file)}"></script>' if plotly_file else f"<script>{plotly_js()}</script>"
    fragment = to_html_fragment(figure, div_id="figure")
    write_text(path, _PAGE.format(title=html.escape(title), script=source, fragment=fragment))
