"""The table of components and the card of one: its numbers follow the sliders; what the model does is read under the lock."""

from typing import Any

from dash import Dash, Input, Output, State, no_update

from s2e_lens.app import pictures, views
from s2e_lens.app.callbacks.editing import told
from s2e_lens.app.card import facts, promoted, reading, rows
from s2e_lens.app.context import EDIT, Context, controls, page_state, plan_of
from s2e_lens.app.settings import checked_label
from s2e_lens.errors import S2EError

BASIS = Input("basis", "data")


def shown_facts(context: Context, values: Any, basis: Any, fires: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The numbers on the card, the switch's text, whether it is of no use, what is wrong with the label, and λ k·x.

    Args:
        context: the server's side.
        values: the page's controls.
        basis: the vectors that it shows.
        fires: k·x of a component on the prompt's tokens, as the page keeps it.
    """
    try:
        ready, state, edit = plan_of(context, values, basis)
    except S2EError:
        return no_update, no_update, no_update, no_update, no_update
    if not state.at.strip():
        return views.HOW_TO_OPEN, "switch off", True, "", ""
    try:
        label = checked_label(state.at, ready.basis)
    except S2EError as error:
        return "", "switch off", True, str(error), ""
    found = facts(ready.basis, edit, label, state.off)
    fired = views.fired(fires["tokens"], fires["fires"], found.lam) if fires and fires["label"] == label else ""
    return views.card(found), "switch on" if found.off else "switch off", False, "", fired


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
    try:
        attention = None if found.attention is None else pictures.attention_page(found.tokens, found.attention, label)
        problem = ""
    except S2EError as error:  # a long text
        attention, problem = None, str(error)
    return words, views.reading(found, label, attention), fires, problem


def register(app: Dash, context: Context) -> None:
    """The callbacks of card and table."""

    @app.callback(
        Output("facts", "children"),
        Output("switch", "children"),
        Output("switch", "disabled"),
        Output("card-problem", "children", allow_duplicate=True),
        Output("firing", "children"),
        Output("summary", "children"),
        Output("chips", "children"),
        Output("edit-problem", "children"),
        inputs={"basis": BASIS, "values": controls((*EDIT, "at")), "fires": Input("fires", "data")},
        prevent_initial_call=True,
    )
    def show_numbers(basis: Any, values: Any, fires: Any) -> Any:
        if not basis:
            return (no_update,) * 8
        return *shown_facts(context, values, basis, fires), *told(context, values, basis)

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
