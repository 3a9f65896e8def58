"""An output folder that is there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2e_lens.errors import ExportError
from s2e_lens.storage import atomic_path, check_writable


def check_free(path: str | Path, *, replace_if: str | None = None) -> None:
    """Refuse a path that something else stands at; called before long work as well as before writing.

    Raises:
        ExportError: see :func:`new_folder`.
        StorageError: if its parent cannot be written to.
    """
    path = Path(path)
    if not path.name:
        raise ExportError(f"{path} is no name for a new folder: write --out NAME.")
    earlier = replace_if is not None and (path / replace_if).is_file()
    if path.exists() and not earlier and not (path.is_dir() and not any(path.iterdir())):
        raise ExportError(f"{path} exists and is not empty: choose another folder, or remove it first.")
    check_writable(path)


@contextmanager
def new_folder(path: str | Path, *, replace_if: str | None = None) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends without error.

    A folder that holds a file named ``replace_if`` is an earlier result of the same kind, and is replaced.

    Raises:
        ExportError: if there is something at ``path`` already (an empty folder may be).
        StorageError: if it cannot be written.
    """
    check_free(path, replace_if=replace_if)
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary
