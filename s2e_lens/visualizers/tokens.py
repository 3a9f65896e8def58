"""Texts token by token: coloured by a value or by several, attention patterns of heads, activations on several texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.errors import ShapeError
from s2e_lens.readout import visible
from s2e_lens.results import Site, component_label
from s2e_lens.visualizers.embedding import Key, TokenView, literal, values_table
from s2e_lens.visualizers.style import NEGATIVE, POSITIVE, as_matrix

MAX_TABLE = 4000
"""Numbers that a view's table may hold; above, it has none."""

MAX_CELLS = 60_000
"""Cells of attention patterns that a browser draws in a second or two."""

PUSH = {"positive": "pushes along +v̂", "negative": "pushes along −v̂"}

PURE = {"low": "red", "high": "blue"}
"""The colours of the CircuitsVis elements whose colours cannot be chosen."""


@dataclass(frozen=True, eq=False)
class TokenValues:
    """A text with one or more values per token."""

    tokens: tuple[str, ...]
    values: Float[np.ndarray, "column pos"]
    labels: tuple[str, ...]
    """What each column is."""
    limit: float
    """The colours run from -limit to +limit, for all columns alike: white is 0."""
    name: str
    positive: str
    negative: str | None


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention patterns of some heads on one text."""

    tokens: tuple[str, ...]
    patterns: Float[np.ndarray, "head query key"]
    labels: tuple[str, ...]
    name: str


@dataclass(frozen=True, eq=False)
class TextActivations:
    """Activations of some components on several texts."""

    texts: tuple[tuple[str, ...], ...]
    values: tuple[Float[np.ndarray, "component _"], ...]
    labels: tuple[str, ...]
    limit: float
    name: str


def token_values_info(
    tokens: Sequence[str],
    values: Float[Tensor, " pos"] | Float[Tensor, "column pos"],
    *,
    name: str,
    labels: Sequence[str] | None = None,
    positive: str = "positive",
    negative: str | None = "negative",
    limit: float | None = None,
) -> TokenValues:
    """A text coloured by one value per token, or by several columns of them, of which one is shown at a time.

    Args:
        tokens: what :func:`~s2e_lens.readout.token_strings` gives.
        values: one per token, or one row of them for each column.
        name: what the values are; the title.
        labels: the columns' names; needed where there are several.
        positive: what blue means.
        negative: what red means; None where no value is negative.
        limit: the value of full colour; by default the largest magnitude after the first token, on which many models write far
            more than on any other. Give one to several views that are to be compared.

    Raises:
        ShapeError: for no token, a number of tokens, labels and values that differ, or a value that is not finite.
    """
    matrix = as_matrix(values if values.ndim == 2 else values[None], what="the values of tokens")
    labels = [name] if labels is None and len(matrix) == 1 else list(labels or [])
    if not tokens or matrix.shape != (len(labels), len(tokens)):
        raise ShapeError(
            f"{len(tokens)} tokens and {len(labels)} labels came with values {list(values.shape)}; values [label, token] are "
            "needed, of at least one token."
        )
    largest = float(np.abs(matrix[:, 1:]).max(initial=0.0)) or float(np.abs(matrix).max())
    if limit is not None and not limit > 0:
        raise ShapeError(f"the colours' limit is a positive number; got {limit}.")
    return TokenValues(tuple(tokens), matrix, tuple(labels), limit or largest or 1.0, name, positive, negative)


def projection_info(
    tokens: Sequence[str],
    projections: Mapping[Site, Float[Tensor, "layer pos"]],
    *,
    site: Site = "mlp",
    layers: Sequence[int] | None = None,
    name: str | None = None,
    limit: float | None = None,
) -> TokenValues:
    """Tokens coloured by y·v̂ at some layers of a site (all, without ``layers``), from :func:`~s2e_lens.readout.projections`.

    Raises:
        ShapeError: for a layer that is not there, or as :func:`token_values_info`.
    """
    along = projections[site]
    chosen = list(range(len(along))) if layers is None else list(layers)
    if not chosen or not set(chosen) <= set(range(len(along))):
        raise ShapeError(f"the projections are of layers 0 to {len(along) - 1}; got {chosen}.")
    one = f", layer {chosen[0]}" if len(chosen) == 1 else ""
    return token_values_info(
        tokens,
        along[chosen],
        name=name or f"What the {site} site writes along v̂ (y·v̂){one}",
        labels=[f"layer {layer}" for layer in chosen],
        positive="along v̂",
        negative="against v̂",
        limit=limit,
    )


def firing_info(
    tokens: Sequence[str],
    firings: Mapping[Site, Float[Tensor, "layer component pos"]],
    *,
    top: int = 8,
    name: str = "When the edit of each component fires (λ k·x)",
    limit: float | None = None,
) -> TokenValues:
    """Tokens coloured by the firing of the components that push hardest on some token, hardest first.

    Args:
        tokens: the text.
        firings: what :func:`~s2e_lens.readout.firings` gives.
        top: how many components at most.
        name: the title.
        limit: as in :func:`token_values_info`.

    Raises:
        ShapeError: if no component fires, or as :func:`token_values_info`.
    """
    found = []
    for site, fired in firings.items():
        size = fired.abs().amax(dim=-1).flatten()
        order = size.sort(descending=True, stable=True).indices[: max(top, 0)].tolist()
        found += [(float(size[i]), site, *divmod(i, fired.shape[1])) for i in order if size[i] > 0]
    found = sorted(found, key=lambda each: -each[0])[:top]
    if not found:
        raise ShapeError("no component fires on this text: the edit has none, or top is below 1.")
    return token_values_info(
        tokens,
        torch.stack([firings[site][layer, index] for _, site, layer, index in found]),
        name=name,
        labels=[component_label(site, layer, index) for _, site, layer, index in found],
        **PUSH,
        limit=limit,
    )


def firing_total_info(
    tokens: Sequence[str],
    firings: Mapping[Site, Float[Tensor, "layer component pos"]],
    *,
    name: str = "When the edit fires (Σ λ k·x over all components)",
    limit: float | None = None,
) -> TokenValues:
    """Tokens coloured by the sum of all firings: how hard the whole edit pushes.

    Every layer pushes along its own v̂: the sum says when the edit acts and how hard, and is not a projection.

    Raises:
        ShapeError: if there are no firings, or as :func:`token_values_info`.
    """
    if not firings:
        raise ShapeError("no site fires on this text: the edit has no term.")
    total = torch.stack([fired.sum(dim=(0, 1)) for fired in firings.values()]).sum(dim=0)
    return token_values_info(tokens, total, name=name, **PUSH, limit=limit)


def view_token_values(info: TokenValues) -> TokenView:
    """The coloured text; the value of a token shows on hover. With several columns, point at a label to see its column."""
    factor = 1.0 if info.limit >= 1e-3 else 10.0 ** (3 * math.ceil(-math.log10(info.limit) / 3))
    values, limit = _rounded(info.values * factor), info.limit * factor
    unit = "" if factor == 1 else f"Values are in units of {1 / factor:.0e}."
    tokens = [literal(token) for token in info.tokens]
    fits = info.values.size <= MAX_TABLE
    shared = {
        "title": info.name,
        "note": unit,
        "table": values_table([visible(token) for token in info.tokens], info.labels, info.values.T.tolist()) if fits else "",
    }
    if len(values) == 1:
        props = {"tokens": tokens, "values": values[0], "minValue": -limit, "maxValue": limit}
        colours = {"negativeColor": NEGATIVE, "positiveColor": POSITIVE}
        return TokenView("ColoredTokens", {**props, **colours}, key=Key(limit, info.positive, info.negative), **shared)
    bounds = {"positiveBounds": [limit] * len(values), "negativeBounds": [-limit] * len(values)}
    props = {"tokens": tokens, "values": [list(row) for row in zip(*values, strict=True)], "labels": list(info.labels), **bounds}
    hint, key = "Point at a label to see its values, click to keep it.", Key(limit, info.positive, info.negative, **PURE)
    return TokenView("ColoredTokensMulti", props, key=key, hint=hint, **shared)


def attention_info(
    tokens: Sequence[str],
    patterns: Float[Tensor, "head query key"],
    *,
    labels: Sequence[str],
    name: str = "Attention patterns",
) -> AttentionPatterns:
    """Attention patterns of some heads on a text, from :meth:`~s2e_lens.models.LensModel.attention`.

    Args:
        tokens: the text.
        patterns: one pattern per head.
        labels: the heads' names, such as ``L5H3``.
        name: the title.

    Raises:
        ShapeError: for no head, a number of tokens, labels and patterns that differ, values that are not finite, or more cells
            than a browser can draw.
    """
    array = patterns.detach().float().cpu().numpy()
    if not len(labels) or array.shape != (len(labels), len(tokens), len(tokens)):
        raise ShapeError(
            f"{len(tokens)} tokens and {len(labels)} labels came with patterns {list(array.shape)}; "
            "[label, token, token] is needed."
        )
    if not np.isfinite(array).all():
        raise ShapeError("the attention patterns hold NaN or infinity; finite values are needed.")
    if array.size > MAX_CELLS:
        raise ShapeError(
            f"{len(labels)} patterns of {len(tokens)} tokens have {array.size:,} cells, more than the {MAX_CELLS:,} "
            "that a browser draws without delay. Show fewer heads, or a shorter text."
        )
    return AttentionPatterns(tuple(tokens), array, tuple(labels), name)


def view_attention(info: AttentionPatterns) -> TokenView:
    """Small patterns of all heads, one of them large: point at a head to see it, click to keep it; of one head, its pattern."""
    patterns = [_rounded(pattern) for pattern in info.patterns]
    alone = len(patterns) == 1
    props = {
        "attention": patterns[0] if alone else patterns,
        "tokens": [literal(visible(token)) for token in info.tokens],
        **({"showAxisLabels": True} if alone else {"attentionHeadNames": list(info.labels)}),
        "minValue": -1.0,
        "maxValue": 1.0,
        "negativeColor": NEGATIVE,
        "positiveColor": POSITIVE,
        "maskUpperTri": True,
    }
    note = "A row is a token that looks back (destination), a column one that it looks at (source); grey comes later in the text."
    title = f"{info.name}: {info.labels[0]}" if alone and info.labels[0] not in info.name else info.name
    return TokenView(
        "AttentionPattern" if alone else "AttentionHeads", props, title, Key(1.0, "all of its attention", None), note
    )


def text_activations_info(
    texts: Sequence[Sequence[str]],
    values: Sequence[Float[Tensor, "component _"]],
    *,
    labels: Sequence[str],
    name: str = "Activations",
) -> TextActivations:
    """Activations of components on several texts, from :func:`~s2e_lens.readout.activations` of each.

    Args:
        texts: the tokens of each text.
        values: for each text, one row per component.
        labels: the components' names.
        name: the title.

    Raises:
        ShapeError: for no text or component, numbers that differ, or a value that is not finite.
    """
    if not labels:
        raise ShapeError(
            "0 components came to see the activations of: name at least one, such as L0H0 or L0N0. "
            "A model whose MLP layers are mixtures of experts has heads only."
        )
    if not texts or len(texts) != len(values):
        raise ShapeError(
            f"{len(texts)} texts came with values of {len(values)} texts: give at least one text, and values for each."
        )
    arrays = []
    for tokens, rows in zip(texts, values, strict=True):
        arrays.append(as_matrix(rows, what="the activations"))
        if not tokens or arrays[-1].shape != (len(labels), len(tokens)):
            raise ShapeError(
                f"a text of {len(tokens)} tokens and {len(labels)} labels came with activations {list(rows.shape)}; "
                "[label, token] is needed, of at least one token."
            )
    limit = max(float(np.abs(each).max()) for each in arrays) or 1.0
    return TextActivations(tuple(map(tuple, texts)), tuple(arrays), tuple(labels), limit, name)


def view_text_activations(info: TextActivations) -> TokenView:
    """The texts, coloured by one component at a time, which is chosen from a list; the first line is the scale."""
    # The element takes its limits from the values that it shows: the scale makes them symmetric around zero.
    scale = np.tile(np.array([-info.limit, 0, info.limit], dtype=np.float32), (len(info.labels), 1))
    ends = [f" −{info.limit:.3g} ", " 0 ", f" +{info.limit:.3g} "]
    props = {
        "tokens": [ends, *([literal(token) for token in tokens] for tokens in info.texts)],
        "activations": [[[column] for column in zip(*_rounded(each), strict=True)] for each in (scale, *info.values)],
        "firstDimensionName": "Activations of",
        "firstDimensionLabels": ["components"],
        "secondDimensionName": "Component",
        "secondDimensionLabels": list(info.labels),
    }
    note, key = (
        "The first line is the scale, the same for all components and texts.",
        Key(info.limit, "active", "negative", **PURE),
    )
    return TokenView("TextNeuronActivations", props, info.name, key, note, hint="Choose a component from the list.")


def _rounded(values: Float[np.ndarray, "row column"]) -> list[list[float]]:
    """Four digits: what a reader takes in, and a third of the page's size."""
    return [[float(f"{value:.4g}") for value in row] for row in values.tolist()]
