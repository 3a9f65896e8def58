"""Opening a page: its address becomes a state; vectors are extracted, a model is loaded, and the controls are set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update

from s2e_lens.app.context import Context, controls, page_state
from s2e_lens.app.settings import gains_of, opened, slider_range
from s2e_lens.app.state import FILE
from s2e_lens.app.state import State as PageState
from s2e_lens.app.workspace import Busy, Failed, Ready
from s2e_lens.errors import S2EError
from s2e_lens.results import SITES

SHOWN = {
    "pending": ("pending", "data"),
    "waits": ("wait", "disabled"),
    "status": ("status", "children"),
    "problem": ("problem", "children"),
    "basis": ("basis", "data"),
    "about": ("about", "children"),
    "model": ("model", "data"),
    "model_name": ("model-name", "value"),
    "behavior": ("behavior", "value"),
    "method": ("method", "value"),
    "methods": ("method", "disabled"),
    "score": ("score", "value"),
    "relative": ("relative", "value"),
    "use_attn": ("use-attn", "value"),
    "use_mlp": ("use-mlp", "value"),
    "rho_attn": ("rho-attn", "value"),
    "rho_mlp": ("rho-mlp", "value"),
    "low_attn": ("slide-attn", "min"),
    "high_attn": ("slide-attn", "max"),
    "low_mlp": ("slide-mlp", "min"),
    "high_mlp": ("slide-mlp", "max"),
    "alpha": ("alpha", "value"),
    "layers": ("layers", "value"),
    "edit": ("edit", "value"),
    "off": ("off", "data"),
    "at": ("at", "value"),
    "prompt": ("prompt", "value"),
    "strength": ("strength", "value"),
    "tokens": ("tokens", "value"),
    "colours": ("colour", "options"),
    "colour": ("colour", "value"),
    "tab": ("tab", "data"),
}
"""What opening a state sets."""


def wish_of(context: Context, search: str | None) -> dict[str, Any]:
    """What an address asks for: a state, whether ρ is still to be chosen, and what was wrong with it."""
    first = context.workspace.opening()
    state, given, messages = PageState.from_query(search or "", first)
    state, missing = _there(context, state, first)
    messages += missing
    known = first.rho_attn is not None or first.rho_mlp is not None  # an edit from a file has its own ρ
    choose = [] if known else [site for site in SITES if f"rho_{site}" not in given]
    return {"state": dataclasses.asdict(state), "choose": choose, "messages": messages, "load": False, "all": True}


def _there(context: Context, state: PageState, first: PageState) -> tuple[PageState, list[str]]:
    """The state without a behaviour that is not offered or a model that is not in memory, which an address cannot load."""
    messages = []
    if state.behavior not in context.workspace.behaviors:
        messages.append(f"The address's behavior was left out: there is no {state.behavior[:40]!r} here.")
        state = dataclasses.replace(state, behavior=first.behavior, method=first.method)
    if state.model not in context.workspace.loaded():
        messages.append(
            f"The address's model was left out: {state.model[:80]} is not in memory. Write it into “Model” and press “Load”."
        )
        state = dataclasses.replace(state, model=first.model)
    return state, messages


def wish_state(wish: Mapping[str, Any]) -> PageState:
    """The state of a wish, as the page keeps it (JSON has no tuples)."""
    return PageState(**{**wish["state"], "off": tuple(wish["state"]["off"])})


def fulfil(context: Context, wish: Mapping[str, Any]) -> dict[str, Any]:
    """What a page shows of a wish: its controls, or that it has to wait, or why it cannot be.

    Returns:
        a value for some of the names in ``SHOWN``; the others stay.
    """
    try:
        state = wish_state(wish)
        found = context.workspace.ask(state, load=wish["load"])
        if isinstance(found, Busy):
            return {"pending": wish, "waits": False, "status": found.message, "problem": _listed(wish["messages"])}
        if isinstance(found, Failed):
            return {"pending": None, "waits": True, "status": "", "problem": _listed([*wish["messages"], found.message])}
        return _opened(context, found, state, wish)
    except S2EError as error:
        return {"pending": None, "waits": True, "status": "", "problem": _listed([*wish["messages"], str(error)])}


def _opened(context: Context, ready: Ready, state: PageState, wish: Mapping[str, Any]) -> dict[str, Any]:
    state = dataclasses.replace(state, **dict(zip(("model", "behavior", "method", "score"), ready.key, strict=True)))
    gains = wish.get("gains")
    if gains is not None:  # another score or behaviour: the same gains, and not the same ρ
        state = opened(ready, state, gains)
    elif wish["choose"]:
        suggested = opened(ready, state)
        state = dataclasses.replace(state, **{f"rho_{site}": getattr(suggested, f"rho_{site}") for site in wish["choose"]})
    ranges = {site: slider_range(ready.basis, site, relative=state.relative) for site in SITES}
    shapes, directions = ready.model.shapes, ready.directions
    places = [(site, layer) for layer in range(shapes.n_layers) for site in SITES if bool(directions[site].unit[layer].any())]
    colours = [{"label": f"layer {layer}, {site}", "value": f"{site}-{layer}"} for site, layer in places]
    known = {each["value"] for each in colours}
    means = directions.means
    found: dict[str, Any] = {
        "pending": None,
        "waits": True,
        "status": "",
        "problem": _listed(wish["messages"]),
        "basis": {"key": list(ready.key), "relative": state.relative},
        "about": f"{shapes.n_layers} layers × {shapes.n_heads} heads, {shapes.d_mlp or 'no'} neurons each; vectors of "
        f"{means.positive.count} + {means.negative.count} examples, {directions.method.replace('_', ' ')}",
        "model": state.model,
        "model_name": state.model,
        "behavior": state.behavior,
        "method": None if state.method == FILE else state.method,
        "methods": state.behavior == FILE,
        "score": state.score,
        "relative": ["1"] if state.relative else [],
        "colours": colours,
        "colour": state.colour if state.colour in known else strongest_place(ready),
    }
    for site in SITES:
        rho = getattr(state, f"rho_{site}")
        found[f"low_{site}"], found[f"high_{site}"] = ranges[site]
        found[f"use_{site}"] = ["1"] if rho is not None else []
        if rho is not None or wish["all"]:
            found[f"rho_{site}"] = rho if rho is not None else _spare(ready, state, site)
    if wish["all"]:
        for name in ("alpha", "layers", "edit", "at", "strength", "tokens", "tab"):
            found[name] = getattr(state, name)
        found["off"] = list(state.off)
        if state.prompt:
            found["prompt"] = state.prompt
    return found


def _spare(ready: Ready, state: PageState, site: Any) -> float | None:
    """The ρ that stands in the field of a site that is left out, for when it is ticked."""
    return getattr(opened(ready, state), f"rho_{site}")


def strongest_place(ready: Ready) -> str:
    """The place whose vector is longest, among the MLPs: tokens are coloured by it at first."""
    norm = ready.directions.mlp.norm
    return f"mlp-{int(norm.argmax())}" if norm.any() else f"attn-{int(ready.directions.attn.norm.argmax())}"


def _listed(messages: list[str]) -> Any:
    return [html.P(message) for message in messages] or None


def changed(context: Context, values: Mapping[str, Any], basis: Mapping[str, Any] | None, *, model: str | None) -> dict[str, Any]:
    """The wish of somebody who chose another behaviour, method, score or form of λ, or loads a model."""
    state = page_state({**values, "method": values.get("method") or "difference-of-means"})
    if state.behavior == FILE:
        state = dataclasses.replace(state, method=FILE)
    gains = None
    if basis is not None:
        try:
            before = page_state(values, basis)
            gains = gains_of(context.workspace.need(before), before)
        except S2EError:
            gains = None
    if model is not None:
        state = dataclasses.replace(state, model=model.strip() or context.workspace.first)
    choose = [] if gains is not None else list(SITES)
    wish = {"state": dataclasses.asdict(state), "choose": choose, "messages": [], "load": model is not None, "all": False}
    return {**wish, "gains": gains}


def register(app: Dash, context: Context) -> None:
    """The callbacks of opening."""

    @app.callback(Output("wish", "data"), Input("address", "search"))
    def arrive(search: str | None) -> dict[str, Any]:
        return wish_of(context, search)

    live = ("behavior", "method", "score", "relative")

    @app.callback(
        output={name: Output(*place) for name, place in SHOWN.items()},
        inputs={
            "wish": Input("wish", "data"),
            "load": Input("load", "n_clicks"),
            "enter": Input("model-name", "n_submit"),
            "wait": Input("wait", "n_intervals"),
            "values": controls(live),
            "name": State("model-name", "value"),
            "pending": State("pending", "data"),
            "basis": State("basis", "data"),
        },
        prevent_initial_call=True,
    )
    def prepare(wish: Any, load: Any, enter: Any, wait: Any, values: Any, name: Any, pending: Any, basis: Any) -> dict[str, Any]:
        cause = ctx.triggered_id
        try:
            if cause == "wait":
                if pending is None:
                    return {**dict.fromkeys(SHOWN, no_update), "waits": True}
                wanted = pending
            elif cause == "wish" or basis is None:
                wanted = wish
            else:
                wanted = changed(context, values, basis, model=name or "" if cause in ("load", "model-name") else None)
        except S2EError as error:
            return {**dict.fromkeys(SHOWN, no_update), "problem": _listed([str(error)])}
        if wanted is None:
            return dict.fromkeys(SHOWN, no_update)
        found = {**dict.fromkeys(SHOWN, no_update), **fulfil(context, wanted)}
        if found["basis"] is no_update and found["waits"] is True and basis is not None:  # it failed: as it was before
            found |= dict(zip(("model", "behavior", "method", "score"), basis["key"], strict=True))
            found["method"] = None if basis["key"][2] == FILE else basis["key"][2]
            found["relative"] = ["1"] if basis["relative"] else []
        return found

    for name in ("attn", "mlp", "alpha"):
        slide, field = (f"slide-{name}", f"rho-{name}") if name != "alpha" else ("alpha-slide", "alpha")
        app.clientside_callback(
            ClientsideFunction("explorer", "sync_log" if name != "alpha" else "sync"),
            Output(slide, "value"),
            Output(field, "value", allow_duplicate=True),
            Input(slide, "value"),
            Input(field, "value"),
            prevent_initial_call=True,
        )
    app.clientside_callback(
        ClientsideFunction("explorer", "same"),
        Output("prompt", "value", allow_duplicate=True),
        Output("card-prompt", "value"),
        Input("prompt", "value"),
        Input("card-prompt", "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "show_tab"),
        Output("nothing", "data", allow_duplicate=True),
        Input("tab", "data"),
        prevent_initial_call="initial_duplicate",
    )
