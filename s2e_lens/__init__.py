"""s2e_lens: from a steering vector to an interpretable weight edit, on TransformerLens.

Nothing heavy is imported until a name is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from s2e_lens._version import __version__

if TYPE_CHECKING:
    from s2e_lens.activations import collect_means as collect_means
    from s2e_lens.app import explore as explore
    from s2e_lens.attribution import attribute as attribute
    from s2e_lens.behaviors import Behavior as Behavior
    from s2e_lens.behaviors import read_examples as read_examples
    from s2e_lens.behaviors import tokenize_examples as tokenize_examples
    from s2e_lens.directions import find_directions as find_directions
    from s2e_lens.editor import edit_as_hooks as edit_as_hooks
    from s2e_lens.editor import edited as edited
    from s2e_lens.editor import plan_edit as plan_edit
    from s2e_lens.editor import prepare_edit as prepare_edit
    from s2e_lens.models import load_model as load_model
    from s2e_lens.pipeline import run as run
    from s2e_lens.steering import steered as steered
    from s2e_lens.storage import load as load
    from s2e_lens.storage import save as save

_EXPORTS = {
    "Behavior": "behaviors",
    "attribute": "attribution",
    "collect_means": "activations",
    "edit_as_hooks": "editor",
    "edited": "editor",
    "explore": "app",
    "find_directions": "directions",
    "load": "storage",
    "load_model": "models",
    "plan_edit": "editor",
    "prepare_edit": "editor",
    "read_examples": "behaviors",
    "run": "pipeline",
    "save": "storage",
    "steered": "steering",
    "tokenize_examples": "behaviors",
}

__all__ = [*_EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"s2e_lens.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 's2e_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
