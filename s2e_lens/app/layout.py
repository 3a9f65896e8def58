"""The page: what stands where. Names of controls are those of the fields of :class:`~s2e_lens.app.state.State`."""

from collections.abc import Sequence

from dash import dcc, html

from s2e_lens.app.panes import panes
from s2e_lens.app.parts import extra, labelled, menu
from s2e_lens.app.state import FILE, SLIDERS, TABS
from s2e_lens.app.workspace import MODELS, Workspace
from s2e_lens.attribution import SCORES
from s2e_lens.directions import METHODS

TAB_NAMES = {
    "components": "Components",
    "prompt": "Prompt",
    "vector": "Vector",
    "tradeoff": "Trade-off",
    "takeaway": "Take away",
}
CONTROLS = {
    "model": ("model", "data"),
    "behavior": ("behavior", "value"),
    "method": ("method", "value"),
    "score": ("score", "value"),
    "rho_attn": ("rho-attn", "value"),
    "rho_mlp": ("rho-mlp", "value"),
    "alpha": ("alpha", "value"),
    "relative": ("relative", "value"),
    "layers": ("layers", "value"),
    "edit": ("edit", "value"),
    "off": ("off", "data"),
    "at": ("at", "value"),
    "prompt": ("prompt", "value"),
    "strength": ("strength", "value"),
    "tokens": ("tokens", "value"),
    "colour": ("colour", "value"),
    "tab": ("tab", "data"),
    "use_attn": ("use-attn", "value"),
    "use_mlp": ("use-mlp", "value"),
}
"""Which control holds what. A site is in the edit if it is ticked (``use``); its ρ stays in its field when it is not."""


def page(workspace: Workspace, *, sweeps: Sequence[str]) -> html.Div:
    """The whole page, before the address is read."""
    return html.Div(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Store(id="wish"),
            dcc.Store(id="pending"),
            dcc.Store(id="basis"),
            dcc.Store(id="model"),
            dcc.Store(id="tab", data="components"),
            dcc.Store(id="off", data=[]),
            dcc.Store(id="query"),
            dcc.Store(id="nothing"),
            dcc.Store(id="fires"),
            dcc.Store(id="writer"),
            dcc.Store(id="asked"),
            dcc.Store(id="finished"),
            dcc.Store(id="settled"),
            dcc.Store(id="toggle"),
            dcc.Store(id="loads"),
            dcc.Store(id="order", data={"by": "score", "up": False}),
            dcc.Interval(id="wait", interval=400, disabled=True),
            dcc.Interval(id="tick", interval=200, disabled=True),
            dcc.Download(id="download"),
            _header(),
            html.Div([_sidebar(workspace), _main(sweeps)], className="columns"),
        ],
        className="explorer",
    )


def _header() -> html.Header:
    return html.Header(
        [
            html.H1("s2e_lens explorer"),
            html.Span(id="about", className="about"),
            html.Div(id="status", className="status", role="status", **extra({"aria-live": "polite"})),
            html.Div(id="problem", className="problem", role="alert"),
        ]
    )


def _sidebar(workspace: Workspace) -> html.Aside:
    names = {FILE: "vectors from the file"}
    behaviors = [{"label": names.get(name, name), "value": name} for name in workspace.behaviors]
    methods = [{"label": name.replace("-", " "), "value": name} for name in METHODS]
    return html.Aside(
        [
            html.Details(
                [
                    html.Summary(html.H2("What to look at")),
                    html.Div(
                        [
                            html.Label("Model", htmlFor="model-name"),
                            html.Div(
                                [
                                    dcc.Input(id="model-name", type="text", spellCheck="false", autoComplete="off"),
                                    html.Button("Load", id="load", title="Load the model that is named here"),
                                ],
                                className="together",
                            ),
                            html.P(
                                f"A checkpoint directory, a hub id, or demo. {MODELS} models stay in memory.", className="hint"
                            ),
                        ],
                        className="field",
                    ),
                    labelled("Behaviour", menu("behavior", behaviors)),
                    labelled("Method of the vector", menu("method", methods)),
                    labelled("Score", menu("score", list(SCORES))),
                ],
                open=True,
                className="part",
            ),
            html.Details(
                [
                    html.Summary(html.H2("The edit")),
                    html.Div(
                        dcc.RadioItems(
                            id="edit",
                            options=[
                                {"label": "of these settings", "value": SLIDERS},
                                {"label": "from the file", "value": FILE},
                            ],
                            value=SLIDERS,
                            inline=True,
                        ),
                        className="choice" if workspace.edit is not None else "hidden",
                    ),
                    _strength("attn", "Heads"),
                    _strength("mlp", "Neurons"),
                    html.Div(
                        [
                            html.Label("Sparsity α", htmlFor="alpha-slide"),
                            html.Div(
                                [
                                    dcc.Input(id="alpha-slide", type="range", min=0, max=0.99, step=0.01, value=0.05),
                                    dcc.Input(id="alpha", type="number", step="any", value=0.05, debounce=False),
                                ],
                                className="slider",
                            ),
                        ],
                        className="field",
                    ),
                    html.Div(
                        [
                            dcc.Checklist(
                                id="relative",
                                options=[{"label": "λ as a gain (relative)", "value": "1"}],
                                value=[],
                                className="check",
                            ),
                            html.Div(
                                [
                                    html.Label("Layers", htmlFor="layers"),
                                    dcc.Input(
                                        id="layers",
                                        type="text",
                                        value="all",
                                        debounce=True,
                                        autoComplete="off",
                                        placeholder="all, late, 0-3,5",
                                    ),
                                ],
                                className="inline",
                            ),
                        ],
                        className="row",
                    ),
                    html.Div(id="summary", **extra({"aria-live": "off"})),
                    html.Div(id="edit-problem", className="problem", role="alert"),
                    html.Div(id="chips"),
                ],
                open=True,
                className="part",
            ),
        ],
        className="sidebar",
    )


def _strength(site: str, name: str) -> html.Div:
    return html.Div(
        [
            html.Div(
                [
                    dcc.Checklist(id=f"use-{site}", options=[{"label": name, "value": "1"}], value=["1"], className="check"),
                    html.Label("penalty ρ", htmlFor=f"slide-{site}", title="Small ρ, large λ. The slider is logarithmic."),
                ],
                className="row",
            ),
            html.Div(
                [
                    dcc.Input(id=f"slide-{site}", type="range", min=-2, max=2, step=0.01, value=0),
                    dcc.Input(id=f"rho-{site}", type="number", step="any", debounce=False),
                ],
                className="slider",
            ),
        ],
        className="field",
    )


def _main(sweeps: Sequence[str]) -> html.Main:
    tabs = html.Div(
        [
            html.Button(
                TAB_NAMES[name],
                id=f"tab-{name}",
                role="tab",
                className="tab",
                **extra({"data-tab": name, "aria-controls": f"pane-{name}", "aria-selected": "false"}),
            )
            for name in TABS
        ],
        className="tabs",
        role="tablist",
        **extra({"aria-label": "Views"}),
    )
    found = panes(sweeps)
    shown = [
        html.Div(found[name], id=f"pane-{name}", className="pane", role="tabpanel", **extra({"aria-labelledby": f"tab-{name}"}))
        for name in TABS
    ]
    return html.Main([tabs, *shown])
