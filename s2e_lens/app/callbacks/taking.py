"""Downloads: the edit, the LoRA adapter, and a figure as a page of its own."""

from typing import Any

from dash import MATCH, Dash, Input, Output, State, ctx, dcc, no_update

from s2e_lens.app import pictures
from s2e_lens.app.context import Context, controls, plan_of
from s2e_lens.app.takeaway import edit_file, lora_archive
from s2e_lens.errors import S2EError


def taken(context: Context, values: Any, basis: Any, what: str) -> tuple[Any, str]:
    """A file for the browser, or why there is none."""
    try:
        ready, state, edit = plan_of(context, values, basis)
        name = f"{state.behavior.rsplit('/', 1)[-1].removesuffix('.toml')}"
        if what == "edit":
            return dcc.send_bytes(edit_file(edit), f"{name}-edit.safetensors"), ""
        with context.workspace.lock():
            return dcc.send_bytes(lora_archive(ready.model, edit), f"{name}-adapter.zip"), ""
    except S2EError as error:
        return no_update, str(error)


def register(app: Dash, context: Context) -> None:
    """The callbacks of the downloads. (png and svg are made by the browser.)"""

    @app.callback(
        Output("download", "data"),
        Output("take-problem", "children"),
        inputs={
            "edit": Input("take-edit", "n_clicks"),
            "lora": Input("take-lora", "n_clicks"),
            "values": controls(),
            "basis": State("basis", "data"),
        },
        prevent_initial_call=True,
    )
    def take(edit: Any, lora: Any, values: Any, basis: Any) -> Any:
        if not (edit or lora) or not basis:
            return no_update, no_update
        return taken(context, values, basis, "edit" if ctx.triggered_id == "take-edit" else "lora")

    @app.callback(
        Output({"type": "download", "figure": MATCH}, "data"),
        Input({"type": "html", "figure": MATCH}, "n_clicks"),
        State({"type": "figure", "figure": MATCH}, "figure"),
        prevent_initial_call=True,
    )
    def page(clicks: Any, drawn: Any) -> Any:
        cause = ctx.triggered_id
        if not clicks or cause is None or not drawn or not drawn.get("data"):
            return no_update
        name = cause["figure"]
        return dcc.send_string(pictures.page(drawn, title=f"s2e_lens: {name}"), f"{name}.html")
