"""The tabs of the vector and of the trade-off: figures of what was extracted, and of a finished sweep."""

import dataclasses
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update

from s2e_lens.app import pictures, sweeps, views
from s2e_lens.app.context import Context, controls, page_state
from s2e_lens.app.parts import figure
from s2e_lens.errors import S2EError

BASIS = Input("basis", "data")


def shown_sweep(context: Context, values: Any, basis: Any, index: str | None) -> tuple[Any, Any, str]:
    """A sweep's figure and table, or why it is not shown."""
    try:
        ready = context.workspace.need(page_state(values, basis))
        result, drawn = context.sweeps.result(int(index or 0))
        context.sweeps.check(result, ready)
        return drawn, views.setting_table(sweeps.table(result)), ""
    except S2EError as error:
        return pictures.empty(), "", str(error)


def loaded(context: Context, values: Any, basis: Any, index: str | None, key: str) -> tuple[Any, str]:
    """The wish to see a setting of a sweep, or why it cannot be."""
    try:
        state = page_state(values, basis)
        ready = context.workspace.need(state)
        result, _ = context.sweeps.result(int(index or 0))
        context.sweeps.check(result, ready)
        state = state.with_setting(sweeps.setting_of(key))
        measured = result.manifest["behavior"]
        messages = [] if state.behavior == measured else [f"This sweep is one of {measured}; the page shows {state.behavior}."]
        if not messages and ready.directions.provenance.data_hash != result.manifest["directions"]["data"]:
            messages = ["This sweep's vectors come from other examples than the page's."]
        wish = {"state": dataclasses.asdict(state), "choose": [], "messages": messages, "load": False, "all": True}
        return wish, ""
    except S2EError as error:
        return no_update, str(error)


def register(app: Dash, context: Context) -> None:
    """The callbacks of both tabs."""

    @app.callback(
        Output(figure("norms"), "figure"),
        Output(figure("cosines"), "figure"),
        Output(figure("lens"), "figure"),
        inputs={
            "basis": BASIS,
            "tab": Input("tab", "data"),
            "between": Input("between", "value"),
            "lens_of": Input("lens-of", "value"),
            "values": controls(),
        },
        prevent_initial_call=True,
    )
    def show_vector(basis: Any, tab: str, between: str, lens_of: str, values: Any) -> Any:
        if not basis or tab != "vector":
            return (no_update,) * 3
        try:
            ready = context.workspace.need(page_state(values, basis))
        except S2EError:
            return (no_update,) * 3
        known = context.workspace.others(ready)
        norms, cosines = pictures.norms(ready, known), pictures.cosines(ready, known, between=between)
        if ctx.triggered_id == "between":
            return no_update, cosines, no_update
        with context.workspace.lock():
            try:
                return norms, cosines, pictures.lens(ready, site=lens_of)
            except S2EError as error:
                return norms, cosines, pictures.empty(str(error))

    @app.callback(
        Output(figure("tradeoff"), "figure"),
        Output("sweep-table", "children"),
        Output("sweep-problem", "children"),
        inputs={"basis": BASIS, "index": Input("sweep", "value"), "tab": Input("tab", "data"), "values": controls()},
        prevent_initial_call=True,
    )
    def show_sweep(basis: Any, index: Any, tab: str, values: Any) -> Any:
        if not basis or tab != "tradeoff" or not context.sweeps.folders:
            return (no_update,) * 3
        return shown_sweep(context, values, basis, index)

    @app.callback(
        Output("wish", "data", allow_duplicate=True),
        Output("sweep-problem", "children", allow_duplicate=True),
        inputs={
            "click": Input(figure("tradeoff"), "clickData"),
            "row": Input("loads", "data"),
            "index": State("sweep", "value"),
            "basis": State("basis", "data"),
            "values": controls(),
        },
        prevent_initial_call=True,
    )
    def load(click: Any, row: Any, index: Any, basis: Any, values: Any) -> Any:
        if ctx.triggered_id == "loads":
            key = row and row["key"]
        else:
            extra = (click or {}).get("points", [{}])[0].get("customdata")
            key = extra[1] if isinstance(extra, list) and len(extra) > 1 else None
        return loaded(context, values, basis, index, key) if key and basis else (no_update, no_update)
