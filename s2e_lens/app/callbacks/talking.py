"""The prompt tab: three answers that come token by token, coloured, and what comes next after the prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update

from s2e_lens.app import pictures, views
from s2e_lens.app.answers import CONDITIONS, Progress, prompt_tokens
from s2e_lens.app.context import EDIT, Context, controls, page_state, plan_of
from s2e_lens.app.parts import figure
from s2e_lens.app.workspace import Ready
from s2e_lens.errors import S2EError
from s2e_lens.readout import next_tokens, token_strings

UNASKED = ("at", "tab", "colour")
"""Parts of a state that change no answer."""


def begun(context: Context, values: Any, basis: Any, writer: str | None) -> tuple[str | None, str]:
    """Begin to answer: the job's name, and what is wrong."""
    try:
        ready, state, edit = plan_of(context, values, basis)
        return context.answering.start(ready, state, edit, instead_of=writer), ""
    except S2EError as error:
        context.answering.stop(writer)
        return None, str(error)


def asked_of(values: Any, basis: Any) -> dict[str, Any]:
    """What answers depend on.

    Raises:
        StateError: if a field was emptied or holds no number.
    """
    state = dataclasses.asdict(page_state(values, basis))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in state.items() if name not in UNASKED}


def outdated(values: Any, basis: Any, writer: Any) -> str:
    """A word about answers that were given under other settings, or to another prompt, than the page shows."""
    try:
        same = not writer or not basis or asked_of(values, basis) == writer["asked"]
    except S2EError:
        same = False
    return "" if same else "These answers were given before the last changes of prompt or settings. Press “Answer” for new ones."


def place_of(ready: Ready, colour: str | None) -> tuple[Any, int] | None:
    """The site and layer by which tokens are coloured."""
    site, _, layer = (colour or "").partition("-")
    if site not in ("attn", "mlp") or not layer.isdecimal() or int(layer) >= ready.model.shapes.n_layers:
        return None
    return site, int(layer)


def shown_answers(ready: Ready, found: Progress, colour: str | None) -> tuple[list[Any], list[str], str]:
    """Each answer as coloured tokens, as plain text, and what the colours mean."""
    model, place, start = ready.model, place_of(ready, colour), len(found.prompt)
    values: list[Sequence[float] | None] = []
    for along in found.along:
        values.append(None if along is None or place is None else along[place[0]][place[1], start:].tolist())
    limit = max((abs(value) for each in values if each for value in each), default=0.0)
    answers = []
    for ids, numbers in zip(found.answers, values, strict=True):
        spans = views.coloured(token_strings(model, ids), numbers, limit=limit, name="y·v̂")
        answers.append(spans or html.Span("(nothing)" if found.done else "…", className="hint"))
    texts = [model.text.decode(ids) for ids in found.answers]
    scale = (
        ""
        if place is None or not limit
        else f"Colours: y·v̂ of layer {place[1]}'s {place[0]} output, ±{limit:.3g}; blue is positive."
    )
    return answers, texts, scale


def shown_firing(context: Context, values: Any, basis: Any) -> tuple[Any, Any, str]:
    """When the edit fires on the prompt, what it adds directly to the next token's logits, and what is wrong."""
    try:
        ready, state, edit = plan_of(context, values, basis)
        ids = prompt_tokens(ready.model, state.prompt)
        with context.workspace.lock():
            drawn = pictures.effects(ready, edit, ids, next_tokens(ready.model, ids))
            page = pictures.firing_page(ready, edit, ids)
        return views.frame(page, "When the edit fires"), drawn, ""
    except S2EError as error:
        return "", pictures.empty(), str(error)


def register(app: Dash, context: Context) -> None:
    """The callbacks of the prompt."""

    @app.callback(
        Output("writer", "data"),
        Output("prompt-problem", "children"),
        inputs={
            "go": Input("go", "n_clicks"),
            "values": controls(),
            "basis": State("basis", "data"),
            "writer": State("writer", "data"),
        },
        prevent_initial_call=True,
    )
    def start(go: Any, values: Any, basis: Any, writer: Any) -> Any:
        if not go or not basis:
            return no_update, no_update
        name, problem = begun(context, values, basis, writer and writer["name"])
        return name and {"name": name, "basis": basis, "asked": asked_of(values, basis)}, problem

    @app.callback(
        Output("outdated", "children"),
        inputs={
            "writer": Input("writer", "data"),
            "basis": Input("basis", "data"),
            "values": controls(("prompt", "strength", "tokens", *EDIT)),
        },
        prevent_initial_call=True,
    )
    def compare(writer: Any, basis: Any, values: Any) -> str:
        return outdated(values, basis, writer)

    @app.callback(
        Output("nothing", "data", allow_duplicate=True),
        Input("stop", "n_clicks"),
        State("writer", "data"),
        prevent_initial_call=True,
    )
    def stop(clicks: Any, writer: Any) -> Any:
        if clicks and writer:
            context.answering.stop(writer["name"])
        return no_update

    # In the browser, as a late word about an earlier job must not end the polling of a newer one.
    app.clientside_callback(
        ClientsideFunction("explorer", "polling"),
        Output("tick", "disabled"),
        Output("stop", "disabled"),
        Input("writer", "data"),
        Input("finished", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        output={
            "answers": [Output(f"answer-{name}", "children") for name in CONDITIONS],
            "texts": [Output(f"text-{name}", "children") for name in CONDITIONS],
            "next": Output(figure("next"), "figure"),
            "asked": Output("asked", "data"),
            "scale": Output("scale", "children"),
            "problem": Output("prompt-problem", "children", allow_duplicate=True),
            "finished": Output("finished", "data"),
        },
        inputs={
            "tick": Input("tick", "n_intervals"),
            "colour": Input("colour", "value"),
            "writer": Input("writer", "data"),
            "asked": State("asked", "data"),
            "values": controls(),
        },
        prevent_initial_call=True,
    )
    def look(tick: Any, colour: Any, writer: Any, asked: Any, values: Any) -> Any:
        same = {"answers": [no_update] * 3, "texts": [no_update] * 3}
        same |= dict.fromkeys(("next", "asked", "scale", "problem", "finished"), no_update)
        if not writer:
            return same
        found = context.answering.look(writer["name"])
        if found is None:
            return {**same, "finished": writer}
        try:
            ready, _, _ = plan_of(context, values, writer["basis"])
        except S2EError as error:
            return {**same, "problem": str(error), "finished": writer}
        answers, texts, scale = shown_answers(ready, found, colour)
        fresh = found.next and asked != writer["name"]
        return {
            "answers": answers,
            "texts": texts,
            "next": pictures.next_token(found.next) if fresh else no_update,
            "asked": writer["name"] if fresh else no_update,
            "scale": scale,
            "problem": found.error or (no_update if ctx.triggered_id == "colour" else ""),
            "finished": writer if found.done else no_update,
        }

    @app.callback(
        Output("firing-view", "children"),
        Output(figure("effects"), "figure"),
        Output("firing-problem", "children"),
        inputs={"show": Input("show-firing", "n_clicks"), "values": controls(), "basis": State("basis", "data")},
        prevent_initial_call=True,
    )
    def show_firing(show: Any, values: Any, basis: Any) -> Any:
        return shown_firing(context, values, basis) if show and basis else (no_update,) * 3
