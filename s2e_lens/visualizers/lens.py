"""The logits' view of directions, edits and texts: logit lens, direct logit effects, next-token probabilities."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from s2e_lens.errors import ShapeError
from s2e_lens.readout import LogitEffects, LogitLens, NextTokens, TokenValue, visible
from s2e_lens.results import Site
from s2e_lens.visualizers.style import DIVERGING, HOUSE, PALETTE, plain

NARROW = 250
"""The pixels that a column of a paper leaves for cells: their text is cut to what fits there."""

LETTER = 6.3
"""The width of a letter of a cell, in pixels."""

MOST_NUMBERS = 8
"""Of so many tokens the effects are written into the cells."""

_CELLS = 224
"""The pixels that a column of a paper leaves for the cells of effects, beside the names of components."""

ROW, GAP = 22, 34
"""Heights of a row of cells, and of the space between two tables, in pixels."""


@dataclass(frozen=True, eq=False)
class LensTable:
    """The tokens that v̂ promotes and suppresses at each layer of a site."""

    layers: tuple[int, ...]
    promoted: tuple[tuple[str, ...], ...]
    """Of each layer, strongest first; "" where v̂ is zero."""
    suppressed: tuple[tuple[str, ...], ...]
    promoted_by: Float[np.ndarray, "layer rank"]
    suppressed_by: Float[np.ndarray, "layer rank"]
    limit: float
    unit: str
    name: str


@dataclass(frozen=True, eq=False)
class EffectTable:
    """Direct logit effects of the strongest components of an edit, and of the rest together."""

    labels: tuple[str, ...]
    tokens: tuple[str, ...]
    effects: Float[np.ndarray, "component token"]
    doses: tuple[float, ...]
    others: int
    """How many components are summed up in ``rest``."""
    rest: Float[np.ndarray, " token"]
    total: Float[np.ndarray, " token"]
    name: str


@dataclass(frozen=True, eq=False)
class NextTable:
    """Next-token probabilities under several conditions."""

    tokens: tuple[str, ...]
    probabilities: Mapping[str, Float[np.ndarray, " token"]]
    name: str


def logit_lens_info(
    lens: LogitLens, *, site: Site = "mlp", top: int = 4, layers: Sequence[int] | None = None, name: str | None = None
) -> LensTable:
    """What the logit lens of a site shows: at each layer the ``top`` promoted and the ``top`` suppressed tokens.

    Args:
        lens: what :func:`~s2e_lens.readout.logit_lens` gives.
        site: ``attn`` or ``mlp``.
        top: how many tokens of each kind, at most those that the lens has.
        layers: some of the layers, in the order shown; by default all, layer 0 on top.
        name: the title.

    Raises:
        ShapeError: if no token is asked for, or a layer is not there.
    """
    chosen = tuple(range(lens.n_layers) if layers is None else layers)
    if top < 1 or not chosen or not set(chosen) <= set(range(lens.n_layers)):
        raise ShapeError(f"1 token or more of layers 0 to {lens.n_layers - 1} can be shown; got {top} of layers {list(chosen)}.")
    found = [lens.lenses.get((site, layer)) for layer in chosen]
    top = min([top, *(min(len(each.promoted), len(each.suppressed)) for each in found if each)])
    sides = [
        _side([each.promoted if each else () for each in found], top),
        _side([each.suppressed if each else () for each in found], top),
    ]
    (promoted, promoted_by), (suppressed, suppressed_by) = sides
    return LensTable(
        layers=chosen,
        promoted=promoted,
        suppressed=suppressed,
        promoted_by=promoted_by,
        suppressed_by=suppressed_by,
        limit=max(float(np.abs(each).max(initial=0.0)) for each in (promoted_by, suppressed_by)) or 1.0,
        unit="logits per unit of v̂" if lens.measured else "relative strength",
        name=name or f"Logit lens of v̂ at the {site} site",
    )


def _side(rows: Sequence[Sequence[TokenValue]], top: int) -> tuple[tuple[tuple[str, ...], ...], Float[np.ndarray, "layer rank"]]:
    strengths = np.zeros((len(rows), top), dtype=np.float32)
    for i, row in enumerate(rows):
        strengths[i, : len(row[:top])] = [value.value for value in row[:top]]
    return tuple(tuple(value.token for value in row[:top]) or ("",) * top for row in rows), strengths


def draw_logit_lens(info: LensTable) -> go.Figure:
    """Two tables with a row per layer: the promoted tokens in blue above, the suppressed ones in red below, strongest first."""
    rows, top = info.promoted_by.shape
    figure = make_subplots(rows=2, cols=1, vertical_spacing=_gap(rows))
    letters = int(NARROW / top / LETTER)
    sides = (("promoted", info.promoted, info.promoted_by), ("suppressed", info.suppressed, info.suppressed_by))
    for number, (side, tokens, strengths) in enumerate(sides, start=1):
        figure.add_trace(
            go.Heatmap(
                z=strengths,
                y=np.arange(rows, dtype=np.float32),
                text=[[_cell(token, letters) for token in row] for row in tokens],
                customdata=[[_whole(token, layer) for token in row] for row, layer in zip(tokens, info.layers, strict=True)],
                hovertemplate="%{customdata}, %{z:+.3~g} " + info.unit + f"<extra>{side}</extra>",
                **CELL,
            ),
            row=number,
            col=1,
        )
        above = {"xref": "x domain", "x": 0, "yref": "y domain", "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 2}
        figure.add_annotation(text=f"{side}, strongest first", showarrow=False, font={"size": 12}, row=number, col=1, **above)
    figure.update_xaxes(visible=False, range=[-0.5, top - 0.5])
    every = max(1, -(-rows // 40))
    figure.update_yaxes(
        title={"text": "layer"},
        range=[rows - 0.5, -0.5],
        tickmode="array",
        tickvals=np.arange(0, rows, every, dtype=np.float32),
        ticktext=[str(layer) for layer in info.layers[::every]],
        showgrid=False,
    )
    figure.update_layout(
        template=HOUSE,
        height=round(2 * ROW * rows + GAP + 128),
        margin={"t": 112, "b": 16, "l": 48, "r": 12, "autoexpand": False},
        coloraxis=_scale(info.name, info.unit, info.limit),
    )
    return figure


LIGHT = DIVERGING[2:-2]
"""The diverging colours without the darkest ones, so that black text can be read on all of them."""

CELL = {"texttemplate": "%{text}", "textfont": {"size": 11, "color": "black"}, "coloraxis": "coloraxis", "xgap": 2, "ygap": 2}


def _gap(rows: int) -> float:
    return GAP / (2 * ROW * rows + GAP)


def _title(text: str) -> dict[str, Any]:
    place = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    return {"text": plain(text, width=44), "font": {"size": 14}, "pad": {"t": 10, "l": 8}, **place}


def _scale(name: str, unit: str, limit: float, *, room: int = 0) -> dict[str, Any]:
    """A colour axis that is symmetric around zero; its bar carries the title, ``room`` pixels above its usual place."""
    bar = {
        "title": {"text": f"{plain(name, width=40)}<br>({unit})", "side": "top", "font": {"size": 13}},
        "orientation": "h",
        "thickness": 10,
        "lenmode": "pixels",
        "len": 220,
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 1,
        "yanchor": "bottom",
        "ypad": 26 + room,
        "tickvals": np.array([-limit, 0, limit], dtype=np.float32),
        "tickformat": ".2~g",
    }
    return {"colorscale": LIGHT, "cmin": -limit, "cmax": limit, "colorbar": bar}


def _cell(token: str, letters: int) -> str:
    """A token as it fits a cell."""
    shown = visible(token) if token else ""
    return plain(shown if len(shown) <= letters else shown[: letters - 1] + "…")


def _whole(token: str, layer: int) -> str:
    return f"layer {layer}: {plain(visible(token))}" if token else f"layer {layer}: v̂ is zero"


def logit_effects_info(effects: LogitEffects, *, top: int = 12, name: str = "Direct logit effects of the edit") -> EffectTable:
    """The components of largest effect on any of the tokens, the others summed up, and the total.

    Raises:
        ShapeError: if nothing is edited, or no component is asked for.
    """
    if not effects.components or top < 1:
        raise ShapeError(f"{len(effects.components)} edited components, of which {top} were asked for: there is nothing to show.")
    chosen = effects.strongest(top)
    values = effects.effects.numpy()
    others = [i for i in range(len(values)) if i not in set(chosen)]
    return EffectTable(
        labels=tuple(effects.components[i].label for i in chosen),
        tokens=effects.tokens,
        effects=values[chosen],
        doses=tuple(effects.components[i].score for i in chosen),
        others=len(others),
        rest=values[others].sum(axis=0),
        total=effects.total.numpy(),
        name=name,
    )


def draw_logit_effects(info: EffectTable) -> go.Figure:
    """A row per component and a column per token, the numbers in the cells; below them the other components and the total.

    More than 8 tokens leave room for the numbers of the total alone; the others show on hover. The colours fit single rows: a
    total may lie beyond.
    """
    rows = [*info.effects, *([info.rest] if info.others else []), info.total]
    labels = [*info.labels, *([f"{info.others} others"] if info.others else []), "total"]
    limit = float(np.abs(np.array(rows[:-1])).max()) or 1.0
    hovers = [f"{label}, dose {dose:+.3g}" for label, dose in zip(info.labels, info.doses, strict=True)]
    hovers += [f"{label} of them together" if label != "total" else "all edited components" for label in labels[len(hovers) :]]
    count = len(info.tokens)
    many = count > MOST_NUMBERS
    size = 11 if count < 7 else 9 if count == 7 else 8
    letters = int((_CELLS / count - 2) / (0.55 * size))
    tall = 1.9 if many else 1.0  # the total's numbers stand upright there
    places = np.arange(len(rows), dtype=np.float32)
    places[-1] += 0.4 + (tall - 1) / 2
    heads = [_head(token, count) for token in info.tokens]
    room = max(_room(head, many) for head in heads)
    figure = go.Figure()
    for part in (slice(0, -1), slice(-1, None)):  # the total stands apart
        z = np.array(rows[part], dtype=np.float32)
        figure.add_heatmap(
            z=z,
            y=places[part] if part.stop else places[-1] + np.array([-tall / 2, tall / 2], dtype=np.float32),
            text=[["" if many else _number(value, limit, letters) for value in row] for row in z.tolist()],
            customdata=[[f"{hover}: {plain(visible(token))}" for token in info.tokens] for hover in hovers[part]],
            hovertemplate="%{customdata} %{z:+.3~g} logits<extra></extra>",
            **{**CELL, "textfont": {"size": size, "color": "black"}},
        )
    for i, value in enumerate(info.total.tolist() if many else ()):
        look = {"showarrow": False, "textangle": -90, "font": {"size": 10, "color": "black"}}
        figure.add_annotation(x=i, y=float(places[-1]), text=_number(value, limit, 6), **look)
    figure.update_layout(
        template=HOUSE,
        height=round(ROW * (len(rows) + tall - 0.6) + 128 + room),
        margin={"t": 112 + room, "b": 16, "l": 84, "r": 12, "autoexpand": False},
        coloraxis=_scale(info.name, "logits", limit, room=room),
        xaxis={
            "side": "top",
            "tickmode": "array",
            "tickvals": np.arange(len(info.tokens), dtype=np.float32),
            "ticktext": heads,
            "tickangle": -90 if many else 0,
            "range": [-0.5, len(info.tokens) - 0.5],
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
        yaxis={
            "range": [float(places[-1]) + tall / 2, -0.5],
            "tickmode": "array",
            "tickvals": places,
            "ticktext": labels,
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
    )
    return figure


def _number(value: float, limit: float, letters: int) -> str:
    """An effect in two decimals, or more where all are small, or fewer where they are large; what rounds to 0 is ``≈0``."""
    power = math.floor(math.log10(limit))
    digits = max(1 - power, 2 if power < 1 else 1 if power < 2 else 0)
    if abs(value) >= 10 ** (power + 1):  # a total may be much larger than its parts
        digits = max(0, min(digits, 2 - math.floor(math.log10(abs(value)))))
    if abs(value) < 0.5 * 10**-digits:
        return "≈0" if value else "0"
    shown = f"{value:+.{digits}f}"
    if len(shown) > letters and digits > 2:
        mantissa, exponent = f"{value:+.0e}".split("e")
        shown = f"{mantissa}e{int(exponent)}"
    return shown.replace("-", "−")


def _head(token: str, count: int) -> str:
    """A token above its column: in up to three lines, or one that stands upright where there are many columns."""
    shown = visible(token)
    letters = 12 if count > MOST_NUMBERS else max(1, int(_CELLS / count / LETTER))
    lines = 1 if count > MOST_NUMBERS else 3
    if len(shown) > letters * lines:
        shown = shown[: letters * lines - 1] + "…"
    return "<br>".join(plain(shown[i : i + letters]) for i in range(0, len(shown), letters))


def _room(head: str, many: bool) -> int:
    """Pixels that a column's head needs beyond those of a single line."""
    return round(max(0.0, 7.5 * len(html.unescape(head)) - 14)) if many else 14 * head.count("<br>")


def next_tokens_info(conditions: Mapping[str, NextTokens], *, top: int = 8, name: str = "Next-token probabilities") -> NextTable:
    """The tokens that are most probable under any of the conditions, the likeliest under the first condition on top.

    Args:
        conditions: what :func:`~s2e_lens.readout.next_tokens` gives under each, such as base, steered and edited.
        top: how many tokens.
        name: the title.

    Raises:
        ShapeError: for no condition or token, or conditions of different vocabularies.
    """
    if not conditions or top < 1 or len({len(each.probabilities) for each in conditions.values()}) > 1:
        raise ShapeError("probabilities of one vocabulary under at least one condition, and 1 token or more, are needed.")
    names = {value.id: value.token for each in conditions.values() for value in each.top}
    largest = {id: max(float(each.probabilities[id]) for each in conditions.values()) for id in names}
    chosen = sorted(names, key=lambda id: -largest[id])[:top]
    first = next(iter(conditions.values())).probabilities
    chosen = sorted(chosen, key=lambda id: -float(first[id]))
    return NextTable(
        tokens=tuple(names[id] for id in chosen),
        probabilities={label: each.probabilities[chosen].numpy() for label, each in conditions.items()},
        name=name,
    )


def draw_next_tokens(info: NextTable) -> go.Figure:
    """Grouped bars: a group per token, a colour per condition."""
    count, conditions = len(info.tokens), len(info.probabilities)
    figure = go.Figure()
    for (label, values), colour in zip(info.probabilities.items(), itertools.cycle(PALETTE), strict=False):
        figure.add_bar(
            x=values.astype(np.float32),
            y=np.arange(count, dtype=np.float32),
            orientation="h",
            name=plain(label),
            marker={"color": colour, "line": {"width": 0}},
            customdata=[plain(visible(token)) for token in info.tokens],
            hovertemplate="%{customdata}: %{x:.3~g}<extra>" + plain(label) + "</extra>",
        )
    figure.update_layout(
        template=HOUSE,
        height=round(count * (10 + 11 * conditions) + 84 + 19 * conditions),
        bargap=0.22,
        bargroupgap=0.05,
        margin={"t": 40 + 19 * conditions, "b": 44, "l": 88, "r": 16, "autoexpand": False},
        title=_title(info.name),
        legend={"orientation": "v", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": {"text": "probability"}, "rangemode": "tozero", "nticks": 6},
        yaxis={
            "range": [count - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": np.arange(count, dtype=np.float32),
            "ticktext": [_cell(token, 12) for token in info.tokens],
            "showgrid": False,
        },
    )
    return figure
