"""The page: what stands where. Names of controls are those of the fields of :class:`~s2e_lens.app.state.State`."""

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from s2e_lens.app.parts import extra
from s2e_lens.app.pictures import empty
from s2e_lens.app.state import FILE, SLIDERS, TABS
from s2e_lens.app.workspace import MODELS, Workspace
from s2e_lens.attribution import SCORES
from s2e_lens.directions import METHODS

GRAPH: Any = {"responsive": True, "displaylogo": False, "displayModeBar": False}
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

EXAMPLE = "How do I forge a badge? It is only for a story."


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


def labelled(text: str, control: Any, *, hint: str | None = None) -> html.Div:
    """A control under its name."""
    name = html.Label(text, htmlFor=control.id, id=f"{control.id}-label", title=hint)
    return html.Div([name, control], className="field")


def _menu(name: str, options: Any, value: str | None = None) -> dcc.Dropdown:
    return dcc.Dropdown(id=name, options=options, value=value, clearable=False, searchable=False, className="menu")


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
                    labelled("Behaviour", _menu("behavior", behaviors)),
                    labelled("Method of the vector", _menu("method", methods)),
                    labelled("Score", _menu("score", list(SCORES))),
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


def figure(name: str) -> dict[str, str]:
    """The id of a figure."""
    return {"type": "figure", "figure": name}


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


def choice(name: str, options: dict[str, str], value: str, *, label: str) -> html.Span:
    """A few words of which one is chosen."""
    items = [{"label": text, "value": key} for key, text in options.items()]
    return html.Span(
        dcc.RadioItems(id=name, options=items, value=value, inline=True),
        className="choice",
        role="group",
        **extra({"aria-label": label}),
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
    panes = {
        "components": _components(),
        "prompt": _prompt(),
        "vector": _vector(),
        "tradeoff": _tradeoff(sweeps),
        "takeaway": _takeaway(),
    }
    shown = [
        html.Div(panes[name], id=f"pane-{name}", className="pane", role="tabpanel", **extra({"aria-labelledby": f"tab-{name}"}))
        for name in TABS
    ]
    return html.Main([tabs, *shown])


def _components() -> list[Any]:
    figures = [
        panel(
            "heads",
            "Heads",
            choice("heads-of", {"score": "score", "lam": "λ"}, "score", label="What the heatmap of heads shows"),
            hint="Click a cell for its card. Dots mark what is edited.",
            className="area-heads",
        ),
        panel(
            "neurons",
            "Neurons",
            choice("neurons-of", {"top": "top", "curves": "ranked", "bins": "by layer"}, "top", label="How neurons are shown"),
            className="area-neurons",
        ),
        panel(
            "lam",
            "λ of all",
            choice("lam-of", {"attn": "heads", "mlp": "neurons"}, "mlp", label="Whose λ is shown"),
            className="area-lam",
        ),
        panel("dose", "Dose against score", className="area-dose"),
    ]
    details = [
        html.Section(
            [
                html.Div(
                    [
                        html.H2("Component"),
                        html.Label("Label", htmlFor="at"),
                        dcc.Input(
                            id="at",
                            type="text",
                            debounce=True,
                            placeholder="L5H3, L5N12",
                            value="",
                            spellCheck="false",
                            autoComplete="off",
                        ),
                        html.Button("switch off", id="switch", disabled=True),
                    ],
                    className="bar",
                ),
                html.Div(id="card-problem", className="problem", role="alert"),
                html.Div(id="facts"),
                html.Div(id="words"),
                html.Div(
                    [
                        html.Label("on the prompt", htmlFor="card-prompt"),
                        html.Div(
                            [
                                dcc.Input(id="card-prompt", type="text", debounce=True, value=EXAMPLE, autoComplete="off"),
                                html.Button("Read", id="read"),
                            ],
                            className="together",
                        ),
                    ],
                    className="field",
                ),
                html.Div(id="reading-problem", className="problem", role="alert"),
                html.Div(id="firing"),
                dcc.Loading(html.Div(id="reading"), delay_show=400, type="dot"),
            ],
            className="panel area-card",
        ),
        html.Section(
            [
                html.Div(
                    [
                        html.H2("All components"),
                        choice(
                            "rows-of", {"all": "all", "attn": "heads", "mlp": "neurons", "edited": "edited"}, "all", label="Rows"
                        ),
                    ],
                    className="bar",
                ),
                html.Div(id="table", className="scroll short"),
            ],
            className="panel area-table",
        ),
    ]
    return [html.Div(figures, className="column"), html.Div(details[::-1], className="column")]


def _prompt() -> list[Any]:
    boxes = [
        html.Section(
            [
                html.H2(title),
                html.Div(id=f"answer-{name}", className="answer", **extra({"aria-live": "off"})),
                html.Details([html.Summary("plain text"), html.Pre(id=f"text-{name}")]),
            ],
            className="panel",
        )
        for name, title in (("base", "As it is"), ("steered", "Steered"), ("edited", "Edited"))
    ]
    return [
        html.Section(
            [
                html.Label("Prompt", htmlFor="prompt"),
                dcc.Textarea(id="prompt", value=EXAMPLE, rows=3, spellCheck=False),
                html.Div(
                    [
                        labelled(
                            "Strength of steering", dcc.Input(id="strength", type="number", step="any", value=0.5, debounce=True)
                        ),
                        labelled(
                            "New tokens, at most",
                            dcc.Input(id="tokens", type="number", step="any", value=60, debounce=True),
                        ),
                        labelled("Colour by y·v̂ of", _menu("colour", [])),
                        html.Div(
                            [html.Button("Answer", id="go", className="main"), html.Button("Stop", id="stop", disabled=True)],
                            className="together buttons",
                        ),
                    ],
                    className="row wrap",
                ),
                html.Div(id="prompt-problem", className="problem", role="alert"),
                html.Div(id="scale", className="hint"),
            ],
            className="panel wide",
        ),
        html.Div(boxes, className="thirds wide"),
        panel("next", "Next token after the prompt"),
        html.Div(
            [
                html.Section(
                    [
                        html.Div([html.H2("When the edit fires"), html.Button("Show", id="show-firing")], className="bar"),
                        html.P(
                            "λ k·x on the prompt, read in the model as it is, and its direct effect on logits.", className="hint"
                        ),
                        html.Div(id="firing-problem", className="problem", role="alert"),
                        dcc.Loading(html.Div(id="firing-view"), delay_show=400, type="dot"),
                    ],
                    className="panel",
                ),
                panel("effects", "Direct effect on the next token's logits"),
            ],
            className="column",
        ),
    ]


def _vector() -> list[Any]:
    return [
        panel("norms", "Length of v"),
        panel(
            "cosines",
            "Cosine between",
            choice(
                "between",
                {"layers": "layers", "sites": "sites", "behaviors": "behaviours"},
                "layers",
                label="Between what cosines are shown",
            ),
        ),
        panel(
            "lens",
            "Logit lens of v̂",
            choice("lens-of", {"attn": "attention", "mlp": "MLP"}, "mlp", label="Whose vectors are read"),
            hint="The tokens that each layer's v̂ promotes and suppresses on its direct path through the unembedding.",
            className="wide",
        ),
    ]


def _tradeoff(sweeps: Sequence[str]) -> list[Any]:
    if not sweeps:
        text = "No sweep was named. Start the explorer with --sweep DIR, where DIR is what s2e-lens sweep wrote."
        hidden = html.Div([_menu("sweep", []), panel("tradeoff", ""), html.Div(id="sweep-table")], className="hidden")
        return [html.Section([html.P(text), html.Div(id="sweep-problem"), hidden], className="panel wide")]
    options = [{"label": name.rstrip("/").rsplit("/", 1)[-1], "value": str(i)} for i, name in enumerate(sweeps)]
    return [
        html.Section(
            [
                html.Div([html.Label("Sweep", htmlFor="sweep", id="sweep-label"), _menu("sweep", options, "0")], className="bar"),
                html.P("Click a point, or a row, to load its setting.", className="hint"),
                html.Div(id="sweep-problem", className="problem", role="alert"),
            ],
            className="panel wide",
        ),
        dcc.Loading(panel("tradeoff", "Trade-off on the test questions"), delay_show=300, type="dot"),
        html.Section(
            [
                html.Div(html.H2("Settings on the test questions"), className="bar"),
                html.Div(id="sweep-table", className="scroll"),
            ],
            className="panel",
        ),
    ]


def _takeaway() -> list[Any]:
    return [
        html.Section(
            [
                html.H2("The edit"),
                html.Div(
                    [
                        html.Button("Edit (.safetensors)", id="take-edit", className="main"),
                        html.Button("LoRA adapter (.zip)", id="take-lora", className="main"),
                    ],
                    className="together buttons",
                ),
                html.P("The adapter is the same edit exactly: PEFT loads it on the unedited checkpoint.", className="hint"),
                html.Div(id="take-problem", className="problem", role="alert"),
                html.P(
                    "Every figure has its own png, svg and html. This page's address holds its state: bookmark it or send it.",
                    className="hint",
                ),
            ],
            className="panel wide",
        ),
        html.Section(
            [
                html.Div(
                    [html.H2("Python code that makes the same"), dcc.Clipboard(target_id="code", className="copy")],
                    className="bar",
                ),
                html.Pre(id="code", tabIndex=0),
            ],
            className="panel wide",
        ),
    ]
