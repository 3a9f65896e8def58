"""A sweep on disk: a manifest of what is compared, and one line per finished setting. It survives being killed at any moment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2e_lens.errors import MismatchError, StorageError
from s2e_lens.evaluation.measure import Items, Split
from s2e_lens.evaluation.settings import Setting
from s2e_lens.storage import write_json

MANIFEST = "manifest.json"
RESULTS = "results.jsonl"
LAYOUT = 1


@dataclass(frozen=True, eq=False)
class Record:
    """One setting, measured on one split."""

    setting: Setting
    split: Split
    about: Mapping[str, Any]
    """Counts, norm and dose of an edit."""
    items: Items


class SweepStore:
    """A folder with ``manifest.json`` (inputs and options, which must not change) and ``results.jsonl`` (append only)."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], records: dict[tuple[str, Split], Record]):
        """Use :meth:`open` or :meth:`read`."""
        self.folder, self.manifest, self.records = folder, dict(manifest), records

    @classmethod
    def open(cls, folder: str | Path, manifest: Mapping[str, Any], *, resume: bool) -> "SweepStore":
        """Begin a sweep, or continue one; a line that was cut off is dropped.

        Raises:
            StorageError: if there is a sweep already and ``resume`` was not asked for, or a file is broken.
            MismatchError: if the sweep was begun with another model, other data or other options; it names them.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        wanted = json.loads(json.dumps({"layout": LAYOUT, **manifest}))
        if path.is_file():
            if not resume:
                raise StorageError(f"{folder} holds a sweep. Continue it with resume (--resume), or choose another --out.")
            store = cls.read(folder)
            changed = sorted(name for name in {*store.manifest, *wanted} if store.manifest.get(name) != wanted.get(name))
            if changed:
                told = "; ".join(
                    f"{name}: {_short(store.manifest.get(name))}, now {_short(wanted.get(name))}" for name in changed
                )
                raise MismatchError(
                    f"{folder} was begun with other inputs, and results of both must not be mixed ({told}). "
                    "Use the same ones, or choose another --out."
                )
            store._trim()
            return store
        if folder.exists() and any(not each.name.endswith(".partial") for each in folder.iterdir()):
            raise StorageError(f"{folder} exists, is not empty and holds no sweep: choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return cls(folder, wanted, {})

    @classmethod
    def read(cls, folder: str | Path) -> "SweepStore":
        """What is finished of a sweep.

        Raises:
            StorageError: if there is none, or a finished line cannot be read.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"{folder} holds no sweep that can be read ({error}). Make one with s2e-lens sweep.") from error
        if manifest.get("layout") != LAYOUT:
            raise StorageError(
                f"{folder} has layout {manifest.get('layout')}; this version reads {LAYOUT}. Make the sweep again."
            )
        records: dict[tuple[str, Split], Record] = {}
        for number, line in enumerate(_finished(folder / RESULTS), start=1):
            try:
                found = json.loads(line)
                setting = Setting(found["setting"].pop("method"), found["setting"])
                record = Record(setting, found["split"], found["about"], Items.from_json(found["items"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StorageError(
                    f"line {number} of {folder / RESULTS} is broken ({type(error).__name__}: {error}). Restore the file, or "
                    "delete that line to measure its setting again (--resume)."
                ) from error
            records[setting.key, record.split] = record
        return cls(folder, manifest, records)

    def add(self, record: Record) -> None:
        """Put a finished setting on the disk: written whole and flushed before this returns.

        Raises:
            StorageError: if there is no room; what was finished before stays, and the setting is measured again on resuming.
        """
        line = json.dumps(
            {
                "setting": {"method": record.setting.method, **record.setting.options},
                "split": record.split,
                "about": dict(record.about),
                "items": record.items.to_json(),
            },
            allow_nan=False,
        )
        path = self.folder / RESULTS
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if path.exists():
                os.truncate(path, size)
            raise StorageError(f"cannot write to {path}: {error}. What was finished is safe: make room and --resume.") from error
        self.records[record.setting.key, record.split] = record

    def get(self, setting: Setting, split: Split) -> Record | None:
        """A finished setting."""
        return self.records.get((setting.key, split))

    def on(self, split: Split) -> list[Record]:
        """All finished settings of a split, in the order of their measurement."""
        return [record for (_, where), record in self.records.items() if where == split]

    def _trim(self) -> None:
        """Drop a last line that was not finished, so that the next one begins on a line of its own."""
        path = self.folder / RESULTS
        if path.is_file():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)


def _finished(path: Path) -> list[str]:
    """The lines that end: one that was being written when the power went has no end."""
    if not path.is_file():
        return []
    return [line.decode() for line in path.read_bytes().split(b"\n")[:-1]]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
