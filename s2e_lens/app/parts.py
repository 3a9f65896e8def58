"""Parts that pages are built of."""

from collections.abc import Mapping
from typing import Any

from dash import dcc, html

from s2e_lens.app.pictures import empty

GRAPH: Any = {"responsive": True, "displaylogo": False, "displayModeBar": False}


def extra(attributes: Mapping[str, str]) -> dict[str, Any]:
    """``data-`` and ``aria-`` attributes, which Dash takes under names that Python has not."""
    return dict(attributes)


def figure(name: str) -> dict[str, str]:
    """The id of a figure."""
    return {"type": "figure", "figure": name}


def labelled(text: str, control: Any, *, hint: str | None = None) -> html.Div:
    """A control under its name."""
    name = html.Label(text, htmlFor=control.id, id=f"{control.id}-label", title=hint)
    return html.Div([name, control], className="field")


def menu(name: str, options: Any, value: str | None = None) -> dcc.Dropdown:
    """A choice of one among several."""
    return dcc.Dropdown(id=name, options=options, value=value, clearable=False, searchable=False, className="menu")


def choice(name: str, options: dict[str, str], value: str, *, label: str) -> html.Span:
    """A few words of which one is chosen."""
    items = [{"label": text, "value": key} for key, text in options.items()]
    return html.Span(
        dcc.RadioItems(id=name, options=items, value=value, inline=True),
        className="choice",
        role="group",
        **extra({"aria-label": label}),
    )


def panel(name: str, title: str, *controls: Any, hint: str | None = None, className: str = "") -> html.Section:
    """A figure under its name, with the ways to take it along."""
    saves = [
        html.Button(kind, className="save", title=f"Download as {kind.upper()}", **extra({"data-save": f"{name} {kind}"}))
        for kind in ("png", "svg")
    ]
    saves.append(
        html.Button(
            "html", id={"type": "html", "figure": name}, className="save", title="Download this figure as a page of its own"
        )
    )
    return html.Section(
        [
            html.Div([html.H2(title), *controls, html.Span(saves, className="saves")], className="bar"),
            *([html.P(hint, className="hint")] if hint else []),
            dcc.Graph(id=figure(name), figure=empty(), config=GRAPH, className="graph"),
            dcc.Download(id={"type": "download", "figure": name}),
        ],
        className=f"panel {className}",
        id=f"panel-{name}",
    )
