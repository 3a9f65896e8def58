"""Sliders: λ, counts, dose and figures. No model is asked and no lock is taken, so that a slider is followed at once.

Numbers, heatmap and distribution follow every step of a slider; the other figures, the table, the address and the code follow
when it rests for a moment (``settled``), so that they do not compete. Then both of the first are drawn once more, as the browser
drops an answer when it has asked again.
"""

from collections.abc import Collection
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from s2e_lens.app import pictures, views
from s2e_lens.app.card import with_off
from s2e_lens.app.context import EDIT, Context, controls, page_state, plan_of
from s2e_lens.app.layout import CONTROLS
from s2e_lens.app.parts import figure
from s2e_lens.app.settings import checked_label, summary
from s2e_lens.app.takeaway import python_code
from s2e_lens.errors import S2EError

BASIS = Input("basis", "data")


def told(context: Context, values: Any, basis: Any) -> tuple[Any, Any, str]:
    """Counts, gains and dose, what is switched off, and what is wrong."""
    try:
        ready, state, edit = plan_of(context, values, basis)
        return views.summary_table(summary(ready.basis, edit)), views.chips(state.off), ""
    except S2EError as error:
        return no_update, views.chips(values.get("off") or ()), str(error)


def redraw(
    context: Context, values: Any, basis: Any, *, heads_of: str, lam_of: Any = "mlp", moved: Collection[str] = ()
) -> tuple[Any, Any]:
    """The heads, and λ of all components of a site; what is wrong is told by :func:`told`.

    Args:
        context: the server's side.
        values: the page's controls.
        basis: the vectors that it shows.
        heads_of: ``score`` or ``lam``.
        lam_of: ``attn`` or ``mlp``.
        moved: the controls that were; a figure that one site's ρ does not touch is left as it is.
    """
    try:
        ready, _, edit = plan_of(context, values, basis)
        other = {"attn": {"rho-mlp"}, "mlp": {"rho-attn"}}
        heads = no_update if moved and set(moved) <= other["attn"] else pictures.heads(ready, edit, of=heads_of)
        same = moved and set(moved) <= other[lam_of]
        return heads, no_update if same else pictures.distribution(ready, edit, site=lam_of)
    except S2EError:
        return no_update, no_update


def redraw_more(context: Context, values: Any, basis: Any, *, neurons_of: str) -> tuple[Any, Any]:
    """The neurons and the dose; what is wrong is told by :func:`redraw`."""
    try:
        ready, _, edit = plan_of(context, values, basis)
        return pictures.neurons(ready, edit, of=neurons_of), pictures.dose(ready, edit)
    except S2EError:
        return no_update, no_update


def switched(context: Context, label: str, off: Any, basis: Any, values: Any) -> tuple[Any, str]:
    """The components that are off after one was switched, or why it cannot be."""
    try:
        ready = context.workspace.need(page_state(values, basis))
        return with_off(off or (), checked_label(label, ready.basis)), ""
    except S2EError as error:
        return no_update, str(error)


def remembered(context: Context, values: Any, basis: Any) -> tuple[Any, Any]:
    """The state as the query of the address, and as Python code."""
    try:
        state = page_state(values, basis)
        return state.to_query(), python_code(context.workspace.need(state), state, context.sources)
    except S2EError:
        return no_update, no_update


def register(app: Dash, context: Context) -> None:
    """The callbacks of the sliders."""

    @app.callback(
        Output(figure("heads"), "figure"),
        Output(figure("lam"), "figure"),
        inputs={
            "basis": BASIS,
            "settled": Input("settled", "data"),
            "values": controls(EDIT),
            "heads_of": Input("heads-of", "value"),
            "lam_of": Input("lam-of", "value"),
        },
        prevent_initial_call=True,
    )
    def draw(basis: Any, settled: Any, values: Any, heads_of: str, lam_of: str) -> Any:
        moved = {each["prop_id"].rpartition(".")[0] for each in ctx.triggered}
        return redraw(context, values, basis, heads_of=heads_of, lam_of=lam_of, moved=moved) if basis else (no_update,) * 2

    @app.callback(
        Output(figure("neurons"), "figure"),
        Output(figure("dose"), "figure"),
        inputs={
            "settled": Input("settled", "data"),
            "basis": State("basis", "data"),
            "values": controls(),
            "neurons_of": Input("neurons-of", "value"),
        },
        prevent_initial_call=True,
    )
    def draw_more(settled: Any, basis: Any, values: Any, neurons_of: str) -> Any:
        return redraw_more(context, values, basis, neurons_of=neurons_of) if basis else (no_update,) * 2

    @app.callback(
        Output("off", "data", allow_duplicate=True),
        Output("card-problem", "children"),
        inputs={
            "toggle": Input("toggle", "data"),
            "off": State("off", "data"),
            "basis": State("basis", "data"),
            "values": controls(),
        },
        prevent_initial_call=True,
    )
    def switch(toggle: Any, off: Any, basis: Any, values: Any) -> Any:
        return switched(context, toggle["label"], off, basis, values) if toggle and basis else (no_update, no_update)

    rest = tuple(name for name in controls() if name not in EDIT)

    @app.callback(
        Output("query", "data"),
        Output("code", "children"),
        inputs={"settled": Input("settled", "data"), "basis": State("basis", "data"), "values": controls(rest)},
        prevent_initial_call=True,
    )
    def remember(settled: Any, basis: Any, values: Any) -> Any:
        return remembered(context, values, basis) if basis else (no_update, no_update)

    app.clientside_callback(
        ClientsideFunction("explorer", "settle"),
        Output("nothing", "data", allow_duplicate=True),
        BASIS,
        *(Input(*CONTROLS[name]) for name in EDIT),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "address"), Output("nothing", "data"), Input("query", "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "clicked"),
        Output("at", "value", allow_duplicate=True),
        *(Input(figure(name), "clickData") for name in ("heads", "neurons", "lam", "dose")),
        prevent_initial_call=True,
    )
