"""What callbacks share: the server's models and jobs, and how to make a state of what a page sends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dash import Input, State

from s2e_lens.app import state as s
from s2e_lens.app.answers import Answering
from s2e_lens.app.layout import CONTROLS
from s2e_lens.app.settings import planned
from s2e_lens.app.sweeps import Sweeps
from s2e_lens.app.takeaway import Sources
from s2e_lens.app.workspace import Ready, Workspace
from s2e_lens.results import Edit


@dataclass(frozen=True, eq=False)
class Context:
    """One explorer's server side."""

    workspace: Workspace
    answering: Answering
    sweeps: Sweeps = field(default_factory=Sweeps)
    sources: Sources = field(default_factory=Sources)


EDIT = ("rho_attn", "rho_mlp", "use_attn", "use_mlp", "alpha", "layers", "edit", "off")
"""The controls that an edit depends on, besides what was extracted."""


def controls(live: Sequence[str] = ()) -> dict[str, Any]:
    """All controls for a callback; a change of the ``live`` ones calls it."""
    return {name: (Input if name in live else State)(*place) for name, place in CONTROLS.items()}


def page_state(values: Mapping[str, Any], basis: Mapping[str, Any] | None = None) -> s.State:
    """The state of a page, of the vectors that it shows (another choice may still be waiting for its own).

    Raises:
        StateError: if a field was emptied or holds no number.
    """
    found = {name: value for name, value in values.items() if not name.startswith("use_")}
    for site in ("attn", "mlp"):
        if not values.get(f"use_{site}"):
            found[f"rho_{site}"] = None
    found["relative"] = bool(values.get("relative"))
    if basis:
        found |= dict(zip(("model", "behavior", "method", "score"), basis["key"], strict=True))
        found["relative"] = basis["relative"]
    return s.from_page(found)


def plan_of(context: Context, values: Mapping[str, Any], basis: Mapping[str, Any]) -> tuple[Ready, s.State, Edit]:
    """What a page shows, and its edit. No model is asked.

    Raises:
        S2EError: for settings that cannot be used.
    """
    state = page_state(values, basis)
    ready = context.workspace.need(state)
    return ready, state, planned(ready, state, edit=context.workspace.edit)
