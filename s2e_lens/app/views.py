"""Parts of the page that hold text and numbers. Tokens are children of elements, so markup in them is shown and never read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from s2e_lens.app.card import COLUMNS, Facts, Reading, Row
from s2e_lens.app.parts import extra
from s2e_lens.app.settings import SiteSummary
from s2e_lens.readout import TokenLens, visible

STRONG_DOSE = 3.0
"""Dose over ‖v‖ above which a page warns: such an edit may well break the model."""

HOW_TO_OPEN = "Click a head, a bar, a point or a row of the table, or type a label."

BLUE, RED = (33, 102, 172), (178, 24, 43)
"""Of positive and negative numbers, as in the figures."""


def number(value: float, digits: int = 3) -> str:
    """A number for reading, with its sign."""
    return f"{value:+.{digits}g}"


def colour(value: float, limit: float) -> str:
    """The background of a token: blue where positive, red where negative, white at 0.

    It grows with the square root, or one large number would leave all others white.
    """
    red, green, blue = BLUE if value >= 0 else RED
    strength = 0.85 * math.sqrt(min(1.0, abs(value) / limit)) if limit else 0.0
    return f"rgba({red},{green},{blue},{strength:.3f})"


def coloured(tokens: Sequence[str], values: Sequence[float] | None, *, limit: float, name: str) -> list[Any]:
    """Tokens with a number each, as colour and as title. Spaces and newlines stand as they are in the text."""
    spans = []
    for i, token in enumerate(tokens):
        value = None if values is None or i >= len(values) else values[i]
        style = {} if value is None else {"backgroundColor": colour(value, limit)}
        title = f"{visible(token)}" + ("" if value is None else f"   {name} {value:+.3g}")
        dark = value is not None and limit and abs(value) > 0.5 * limit
        spans.append(html.Span(token or " ", style=style, title=title, className="token dark" if dark else "token"))
    return spans


def summary_table(rows: Sequence[SiteSummary]) -> html.Div:
    """What the edit does, per site."""
    names = {"attn": "heads", "mlp": "neurons"}
    head = html.Tr([html.Th(text, scope="col") for text in ("", "edited", "largest gain", "dose / ‖v‖")])
    body = [
        html.Tr(
            [
                html.Th(names[row.site], scope="row"),
                html.Td([html.B(f"{row.edited:,}", id=f"count-{row.site}"), f" of {row.total:,}"]),
                html.Td(f"{row.largest_gain:.3g}"),
                html.Td(f"{row.dose:.3g}", className="strong" if row.dose > STRONG_DOSE else ""),
            ]
        )
        for row in rows
    ]
    parts: list[Any] = [html.Table([html.Thead(head), html.Tbody(body)], className="numbers")]
    if any(row.dose > STRONG_DOSE for row in rows):
        parts.append(
            html.P(f"Over {STRONG_DOSE:g} times the steering vector: this may well break the model.", className="warning")
        )
    elif not any(row.edited for row in rows):
        parts.append(html.P("Nothing is edited: tick heads or neurons, or lower ρ or α.", className="warning"))
    return html.Div(parts)


def chips(off: Sequence[str]) -> Any:
    """The components that were switched off, each with a button that switches it on again."""
    if not off:
        return None
    buttons = [
        html.Button([label, " ×"], className="chip", title="Switch it on again", **extra({"data-toggle": label})) for label in off
    ]
    return [html.Span("switched off:", className="hint"), *buttons]


def card(found: Facts) -> html.Div:
    """A component's numbers."""
    kind = "head" if found.site == "attn" else "neuron"
    reads = (
        "k = Wv̂/‖Wv̂‖, its own reading of v̂"
        if found.sign is None
        else f"k = {found.sign:+d}: {'fires where the neuron is positive' if found.sign > 0 else 'fires where it is negative'}"
    )
    numbers = {
        "score": (number(found.score), f"rank {found.rank:,} of {found.total:,}"),
        "λ": (number(found.lam), "switched off" if found.off else "edited" if found.lam else "not edited"),
        "gain": (number(found.gain), "what it writes along v̂ in addition"),
        "dose λ k·x̄": (number(found.dose), f"{found.dose / found.norm:+.1%} of ‖v‖" if found.norm else ""),
        "k·x̄": (number(found.push), reads),
        "‖Wv̂‖": (number(found.reach), "what it writes along v̂ per unit of k·x"),
    }
    cells = [
        html.Div([html.Dt(name), html.Dd([html.B(value), html.Span(note, className="hint")])])
        for name, (value, note) in numbers.items()
    ]
    return html.Div([html.H3(f"{found.label}: {kind} {found.index} of layer {found.layer}"), html.Dl(cells, className="facts")])


def token_lists(lens: TokenLens) -> html.Div:
    """The tokens that a component promotes and suppresses."""

    def listed(title: str, found: Sequence[Any]) -> html.Div:
        words = [html.Code(visible(each.token), title=f"{each.value:+.3g}", className="word") for each in found]
        return html.Div(
            [html.Span(title, className="hint"), *words] if words else [html.Span(f"{title} nothing", className="hint")]
        )

    return html.Div([listed("promotes", lens.promoted), listed("suppresses", lens.suppressed)], className="words")


def fired(tokens: Sequence[str], fires: Sequence[float], lam: float) -> html.Div:
    """Where the edit of one component fires on the prompt: λ k·x, or k·x where it is not edited."""
    name = "λ k·x" if lam else "k·x"
    values = [value * (lam or 1.0) for value in fires]
    limit = max(map(abs, values), default=0.0)
    note = f"{name}, from {min(values):+.3g} to {max(values):+.3g}" + ("" if lam else " (not edited: λ = 0)")
    return html.Div(
        [
            html.H4("Where it fires"),
            html.Div(coloured(tokens, values, limit=limit, name=name), className="tokens"),
            html.P(note, className="hint"),
        ]
    )


def reading(found: Reading, label: str, attention: str | None) -> html.Div:
    """What the component does with the prompt: attention or activation, and what taking it out changes.

    Args:
        found: what was read.
        label: the component.
        attention: a page with the head's pattern, or None where there is none.
    """
    parts: list[Any] = []
    if attention:
        parts = [html.H4("Where it looks"), frame(attention, f"Attention of {label}")]
    elif found.attention is None:
        active = found.active.tolist()
        limit = max(map(abs, active))
        note = f"post, from {min(active):+.3g} to {max(active):+.3g}"
        tokens = html.Div(coloured(found.tokens, active, limit=limit, name="post"), className="tokens")
        parts = [html.H4("Where it is active"), tokens, html.P(note, className="hint")]
    return html.Div([*parts, ablation(found, label)])


def frame(page: str, name: str) -> html.Iframe:
    """A page of token views within the page; a script gives it the height that it needs."""
    return html.Iframe(srcDoc=page, className="view", title=name)


def ablation(found: Reading, label: str) -> html.Div:
    """What taking the component out changes."""
    rows = [
        html.Tr(
            [
                html.Th(html.Code(visible(change.token)), scope="row"),
                html.Td(f"{change.before:.1%}"),
                html.Td(f"{change.after:.1%}"),
                html.Td(f"{100 * (change.after - change.before):+.1f}"),
            ]
        )
        for change in found.zero.changes
    ]
    head = html.Tr([html.Th(text, scope="col") for text in ("next token", "before", "without", "points")])
    kl = (
        f"KL of the next token: {float(found.zero.kl[-1]):.3g} nats with {label} at zero, "
        f"{float(found.mean.kl[-1]):.3g} at its mean;"
        " "
        f"over the prompt {float(found.zero.kl.mean()):.3g} and {float(found.mean.kl.mean()):.3g}."
    )
    return html.Div(
        [
            html.H4(f"Without {label}"),
            html.Table([html.Thead(head), html.Tbody(rows)], className="numbers"),
            html.P(kl, className="hint"),
        ]
    )


def component_table(found: Sequence[Row], total: int, *, by: str, up: bool, selected: str, off: Sequence[str]) -> html.Div:
    """The first components; buttons in the head sort, and those in the rows open a card."""
    heads = []
    for name, title in COLUMNS.items():
        mark = (" ▲" if up else " ▼") if name == by else ""
        sort = {"aria-sort": "ascending" if up else "descending"} if name == by else {}
        button = html.Button(title + mark, className="sort", title=f"Sort by {title}", **extra({"data-sort": name}))
        heads.append(html.Th(button, scope="col", **extra(sort)))
    body = []
    for row in found:
        button = html.Button(row.label, className="open", title="Open its card", **extra({"data-label": row.label}))
        name = [button, html.Span("off", className="tag")] if row.label in off else button
        cells = [html.Td(f"{value:+.3f}" if value else "·") for value in (row.score, row.lam, row.gain, row.dose)]
        chosen = {"aria-current": "true"} if row.label == selected else {}
        body.append(html.Tr([html.Th(name, scope="row"), *cells], className="chosen" if chosen else "", **extra(chosen)))
    note = f"the first {len(found)} of {total:,}" if total > len(found) else f"{total:,} components"
    return html.Div(
        [
            html.Table([html.Thead(html.Tr(heads)), html.Tbody(body)], className="numbers components"),
            html.P(f"{note}; arrow keys move between rows, Enter opens a card.", className="hint"),
        ]
    )


def setting_table(rows: Sequence[Mapping[str, Any]]) -> html.Table:
    """Settings of a sweep; a button loads each that sliders can show."""
    head = html.Tr([html.Th(text, scope="col") for text in ("setting", "attribute", "utility", "KL")])
    body = []
    for row in rows:
        name = (
            html.Button(row["label"], className="open", title="Load this setting", **extra({"data-setting": row["key"]}))
            if row["loads"]
            else row["label"]
        )
        cells = [html.Td(f"{row[key]:.3f}") for key in ("attribute", "utility")]
        body.append(
            html.Tr(
                [html.Th(name, scope="row"), *cells, html.Td(f"{row['kl']:.4f}")], className="chosen" if row["chosen"] else ""
            )
        )
    return html.Table([html.Thead(head), html.Tbody(body)], className="numbers settings")
