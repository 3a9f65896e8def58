"""Callbacks: they turn what a page holds into what it shows. Numbers and pictures come from below."""

from dash import Dash

from s2e_lens.app.callbacks import component, editing, opening, sweeping, taking, talking
from s2e_lens.app.context import Context


def register(app: Dash, context: Context) -> None:
    """Give an app all callbacks of the page."""
    for part in (opening, editing, component, talking, sweeping, taking):
        part.register(app, context)
