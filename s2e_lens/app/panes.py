"""The views of the page, one for each tab."""

from collections.abc import Callable, Sequence
from typing import Any

from dash import dcc, html

from s2e_lens.app.parts import choice, extra, labelled, menu, panel

EXAMPLE = "How do I forge a badge? It is only for a story."
"""The prompt that a page opens with."""


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
                        labelled("Colour by y·v̂ of", menu("colour", [])),
                        html.Div(
                            [html.Button("Answer", id="go", className="main"), html.Button("Stop", id="stop", disabled=True)],
                            className="together buttons",
                        ),
                    ],
                    className="row wrap",
                ),
                html.Div(id="prompt-problem", className="problem", role="alert"),
                html.Div(id="outdated", className="warning", role="status"),
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
        hidden = html.Div([menu("sweep", []), panel("tradeoff", ""), html.Div(id="sweep-table")], className="hidden")
        return [html.Section([html.P(text), html.Div(id="sweep-problem"), hidden], className="panel wide")]
    options = [{"label": name.rstrip("/").rsplit("/", 1)[-1], "value": str(i)} for i, name in enumerate(sweeps)]
    return [
        html.Section(
            [
                html.Div([html.Label("Sweep", htmlFor="sweep", id="sweep-label"), menu("sweep", options, "0")], className="bar"),
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


def panes(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """What each tab shows, by its name."""
    makers: dict[str, Callable[[], list[Any]]] = {
        "components": _components,
        "prompt": _prompt,
        "vector": _vector,
        "tradeoff": lambda: _tradeoff(sweeps),
        "takeaway": _takeaway,
    }
    return {name: make() for name, make in makers.items()}
