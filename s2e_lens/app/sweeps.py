"""Finished sweeps on disk, for the tab of the trade-off."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from s2e_lens.app.state import StateError
from s2e_lens.app.workspace import Ready
from s2e_lens.errors import StorageError
from s2e_lens.evaluation.settings import Setting
from s2e_lens.pipeline.sweeps import SweepResult, compare_sweep, draw_comparison


@dataclass(eq=False)
class Sweeps:
    """Folders that the explorer was started with; each is read and compared once, when it is first looked at."""

    folders: tuple[Path, ...] = ()
    _read: dict[int, tuple[SweepResult, go.Figure]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Any) -> "Sweeps":
        """Folders that hold a sweep.

        Raises:
            StorageError: if one is not there.
        """
        paths = tuple(Path(each) for each in folders)
        for path in paths:
            if not (path / "manifest.json").is_file():
                raise StorageError(f"{path} holds no sweep: name the folder that s2e-lens sweep wrote.")
        return cls(paths)

    def result(self, index: int) -> tuple[SweepResult, go.Figure]:
        """A sweep with its figure.

        Raises:
            StateError: if there is no such sweep.
            PlanError: if it is not finished.
        """
        if not 0 <= index < len(self.folders):
            raise StateError("there is no such sweep: start the explorer with --sweep DIR.")
        if index not in self._read:
            result = compare_sweep(self.folders[index])
            self._read[index] = (result, draw_comparison(result))
        return self._read[index]

    def check(self, result: SweepResult, ready: Ready) -> None:
        """Refuse a sweep of another model: its ρ mean something else here.

        Raises:
            StateError: if the weights differ.
        """
        measured, now = result.manifest["weights"], ready.basis.provenance.weight_hash
        if measured != now:
            raise StateError(
                f"This sweep was measured on {result.manifest['model']} with weights {measured}; the page's model has {now}. "
                "Load that model to see it."
            )


def table(result: SweepResult) -> list[dict[str, Any]]:
    """One line per setting of the test split: base, edits, steering, controls."""
    found = result.comparison
    points = [found.base, *found.edits, *found.curve, *(each.point for each in found.controls)]
    return [
        {
            "label": "unedited" if each is found.base else each.setting.label.removeprefix("edit "),
            "key": each.setting.key,
            "attribute": each.attribute.value,
            "utility": each.utility.value,
            "kl": each.items.kl,
            "loads": each.setting.method in ("edit", "steering"),
            "chosen": each is found.edit,
        }
        for each in points
    ]


def setting_of(key: str) -> Setting:
    """A setting from its key, as a page sends it back.

    Raises:
        StateError: if it is none.
    """
    try:
        options = json.loads(key)
        method = options.pop("method")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise StateError("this is no setting of a sweep.") from None
    return Setting(method, options)
