"""The table of components and the card of one: its numbers follow the sliders; what the model does is read under the lock."""

from typing import Any

from dash import Dash, Input, Output, State, no_update

from s2e_lens.app import pictures, views
from s2e_lens.app.card import facts, promoted, reading, rows
from s2e_lens.app.context import EDIT, Context, controls, page_state, plan_of
from s2e_lens.app.settings import checked_label
from s2e_lens.errors import S2EError

BASIS = Input("basis", "data")


def shown_facts(context: Context, values: Any, basis: Any) -> tuple[Any, str, bool, str]:
    """The numbers on the card, the switch's text, whether it is of no use, and what is wrong with the label."""
    try:
        ready, state, edit = plan_of(context, values, basis)
    except S2EError:
        return no_update, no_update, no_update, no_update  # type: ignore[return-value]
    if not state.at.strip():
        return "", "switch off", True, ""
    try:
        label = checked_label(state.at, ready.basis)
    except S2EError as error:
        return "", "switch off", True, str(error)
    found = facts(ready.basis, edit, label, state.off)
    return views.card(found), "switch on" if found.off else "switch off", False, ""


def shown_table(context: Context, values: Any, basis: Any, order: Any, which: str) -> Any:
    """The first components by the chosen column."""
    try:
        ready, state, edit = plan_of(context, values, basis)
    except S2EError:
        return no_update
    found, total = rows(ready.basis, edit, which=which, by=order["by"], up=order["up"])
    return views.component_table(found, total, by=order["by"], up=order["up"], selected=state.at.strip().upper(), off=state.off)


def read_component(context: Context, values: Any, basis: Any) -> tuple[Any, Any, Any, str]:
    """Top tokens, what the component does with the prompt, where it fires (k·x, for λ to multiply), and what is wrong."""
    try:
        state = page_state(values, basis)
        ready = context.workspace.need(state)
        label = checked_label(state.at, ready.basis)
    except S2EError:
        return "", "", None, ""  # the card says so
    with context.workspace.lock():
        try:
            words = views.token_lists(promoted(ready, label))
        except S2EError as error:  # a quantised unembedding
            words = str(error)
        try:
            found = reading(ready, label, state.prompt)
        except S2EError as error:
            return words, "", None, str(error)
    fires = {"label": label, "tokens": list(found.tokens), "fires": found.fires.tolist()}
    return words, pictures.reading_view(found, label), fires, ""


def shown_firing(context: Context, values: Any, basis: Any, fires: Any) -> Any:
    """The prompt's tokens coloured by λ k·x."""
    if not fires:
        return ""
    try:
        ready, state, edit = plan_of(context, values, basis)
        found = facts(ready.basis, edit, fires["label"], state.off)
    except S2EError:
        return no_update
    return views.fired(fires["tokens"], fires["fires"], found.lam)


def register(app: Dash, context: Context) -> None:
    """The callbacks of card and table."""

    @app.callback(
        Output("facts", "children"),
        Output("switch", "children"),
        Output("switch", "disabled"),
        Output("card-problem", "children", allow_duplicate=True),
        inputs={"basis": BASIS, "values": controls((*EDIT, "at"))},
        prevent_initial_call=True,
    )
    def show_facts(basis: Any, values: Any) -> Any:
        return shown_facts(context, values, basis) if basis else (no_update,) * 4

    @app.callback(
        Output("table", "children"),
        inputs={
            "settled": Input("settled", "data"),
            "basis": State("basis", "data"),
            "values": controls(("at",)),
            "order": Input("order", "data"),
            "which": Input("rows-of", "value"),
        },
        prevent_initial_call=True,
    )
    def show_table(settled: Any, basis: Any, values: Any, order: Any, which: str) -> Any:
        return shown_table(context, values, basis, order, which) if basis else no_update

    @app.callback(
        Output("words", "children"),
        Output("reading", "children"),
        Output("fires", "data"),
        Output("reading-problem", "children"),
        inputs={
            "basis": BASIS,
            "read": Input("read", "n_clicks"),
            "typed": Input("card-prompt", "n_submit"),
            "values": controls(("at",)),
        },
        prevent_initial_call=True,
    )
    def read(basis: Any, read: Any, typed: Any, values: Any) -> Any:
        return read_component(context, values, basis) if basis else (no_update,) * 4

    @app.callback(
        Output("firing", "children"),
        inputs={"fires": Input("fires", "data"), "values": controls(EDIT), "basis": State("basis", "data")},
        prevent_initial_call=True,
    )
    def show_firing(fires: Any, values: Any, basis: Any) -> Any:
        return shown_firing(context, values, basis, fires) if basis else no_update
