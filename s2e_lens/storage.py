"""Files: safetensors with provenance, JSON and text, written to a temporary name and renamed. Never pickle.

A file is one safetensors archive. Its metadata hold one entry, ``s2e_lens``: JSON with the ``kind`` (means, directions,
attribution, edit), the version of the layout and the provenance. (One entry, because safetensors writes several in
random order, and the same result shall give the same bytes.)
"""

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from s2e_lens.errors import StorageError
from s2e_lens.results import (
    SITES,
    Attribution,
    ClassMeans,
    Directions,
    Edit,
    Means,
    Provenance,
    Site,
    SiteDirections,
    SiteEdit,
    SiteMeans,
)

FORMAT = "s2e_lens"
VERSION = 1

_UMASK = os.umask(0o022)
os.umask(_UMASK)

Result = Means | Directions | Attribution | Edit


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it (file or new directory) when the block ends without error.

    Raises:
        StorageError: if it cannot be written (no room, no permission); nothing is left behind and an old file stays.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        _rename(temporary, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot write {path}: {error}. Nothing was changed; free some space or choose another --out."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _rename(temporary: Path, path: Path) -> None:
    """Put a file or folder in its place; a folder cannot be renamed over a full one, so the old one is moved aside first."""
    if not (path.is_dir() and temporary.is_dir()):
        os.replace(temporary, path)
        return
    aside = temporary.with_suffix(".old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Put file contents on the disk before the rename, so that a crash never leaves a renamed but empty file."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        file.chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner can read
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def check_file(path: str | Path, *inputs: str | Path) -> None:
    """Refuse a path that no file can be written to, or that is one of the inputs; called before long work.

    Raises:
        StorageError: if it is a folder, lies in one that cannot be written to, or is an input.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise StorageError(f"{path} is a folder; the name of a file to write was needed (--out FILE).")
    if path.resolve() in {Path(each).resolve() for each in inputs}:
        raise StorageError(f"{path} is the input as well; writing it would lose it. Choose another --out.")
    check_writable(path)


def check_writable(path: str | Path) -> None:
    """Refuse a path whose nearest existing folder cannot be written to.

    Raises:
        StorageError: if it cannot.
    """
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(f"cannot write {path}: {folder} is not a folder that can be written to. Choose another --out.")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON (two spaces, keys as they come), whole or not at all. NaN is refused: it is not JSON."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise StorageError(f"cannot write {path}: the value holds NaN or infinity ({error}).") from error
    write_text(path, text)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        StorageError: if a tensor holds NaN or infinity, or the file cannot be written.
    """
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise StorageError(f"cannot write {path}: {broken} hold NaN or infinity.")
    with atomic_path(path) as temporary:
        # An archive's tensors may not share memory (slices of one stack do).
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary, dict(metadata)
        )


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        StorageError: if the file is not there, is truncated, or is no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"{path} is not there (or is no file).")
    try:
        with safe_open(path, framework="pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys()}, archive.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read as safetensors ({error}): it is truncated or of another format. "
            "Make it again, or copy it again from where it came."
        ) from error


def save(result: Result, path: str | Path) -> None:
    """Write means, directions, an attribution or an edit, atomically."""
    kind = type(result).__name__.lower()
    tensors, extra = _WRITERS[kind](result)
    header = {"kind": kind, "version": VERSION, "provenance": dataclasses.asdict(result.provenance), **extra}
    write_tensors(path, tensors, {FORMAT: json.dumps(header)})


def load(path: str | Path, kind: type[Any] | None = None) -> Any:
    """Read a result: means, directions, an attribution or an edit, whichever the file holds.

    With a ``kind`` (``load(path, Directions)``) anything else is refused.

    Raises:
        StorageError: if the file is missing, truncated, foreign, of a later version, or of another kind.
    """
    tensors, metadata = read_tensors(path)
    if FORMAT not in metadata:
        raise StorageError(f"{path} is a safetensors file, but s2e_lens did not write it.")
    try:
        header = json.loads(metadata[FORMAT])
        version, found = int(header["version"]), header["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} has a damaged header ({error}). Make it again.") from error
    if version > VERSION:
        raise StorageError(f"{path} has layout version {version}; this s2e_lens reads up to {VERSION}. Update s2e_lens.")
    if found not in _READERS or (kind is not None and found != kind.__name__.lower()):
        wanted = "a result of s2e_lens" if kind is None else repr(kind.__name__.lower())
        raise StorageError(f"{path} holds {found!r}; {wanted} was needed.")
    try:
        return _READERS[found](tensors, header, Provenance(**header["provenance"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StorageError(f"{path} is incomplete: {type(error).__name__} {error}. Make it again.") from error


def _write_means(means: Means) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    for label in ("positive", "negative"):
        each: ClassMeans = getattr(means, label)
        tensors[f"means.{label}.count"] = torch.tensor(each.count)
        for site in SITES:
            tensors[f"means.{label}.{site}.inputs"] = each[site].inputs
            tensors[f"means.{label}.{site}.outputs"] = each[site].outputs
            if each.examples is not None:
                tensors[f"means.{label}.{site}.examples"] = each.examples[site]
    return tensors, {"means_provenance": dataclasses.asdict(means.provenance)}


def _read_means(tensors: Mapping[str, Tensor], header: Mapping[str, Any], _: Provenance) -> Means:
    def one(label: str) -> ClassMeans:
        def site_means(site: Site) -> SiteMeans:
            prefix = f"means.{label}.{site}"
            return SiteMeans(tensors[f"{prefix}.inputs"], tensors[f"{prefix}.outputs"])

        kept = any(name.endswith(".examples") for name in tensors)
        examples: dict[Site, Tensor] | None = {s: tensors[f"means.{label}.{s}.examples"] for s in SITES} if kept else None
        return ClassMeans(int(tensors[f"means.{label}.count"]), site_means("attn"), site_means("mlp"), examples)

    return Means(one("positive"), one("negative"), Provenance(**header["means_provenance"]))


def _write_directions(directions: Directions) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, extra = _write_means(directions.means)
    for site in SITES:
        tensors |= {f"{site}.unit": directions[site].unit, f"{site}.norm": directions[site].norm}
    return tensors, {**extra, "method": directions.method}


def _read_directions(tensors: Mapping[str, Tensor], header: Mapping[str, Any], provenance: Provenance) -> Directions:
    attn, mlp = (SiteDirections(tensors[f"{site}.unit"], tensors[f"{site}.norm"]) for site in SITES)
    means = _read_means(tensors, header, provenance)
    return Directions(attn, mlp, means, header["method"], provenance)


def _write_attribution(attribution: Attribution) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {"heads": attribution.heads, "neurons": attribution.neurons}, {"score": attribution.score}


def _read_attribution(tensors: Mapping[str, Tensor], header: Mapping[str, Any], provenance: Provenance) -> Attribution:
    return Attribution(tensors["heads"], tensors["neurons"], header["score"], provenance)


def _write_edit(edit: Edit) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    for site in SITES:
        for i, term in enumerate(edit[site]):
            tensors |= {f"{site}.{i}.u": term.u, f"{site}.{i}.k": term.k, f"{site}.{i}.lam": term.lam}
    return tensors, {"terms": {site: len(edit[site]) for site in SITES}}


def _read_edit(tensors: Mapping[str, Tensor], header: Mapping[str, Any], provenance: Provenance) -> Edit:
    counts = header["terms"]

    def terms(site: Site) -> tuple[SiteEdit, ...]:
        return tuple(
            SiteEdit(tensors[f"{site}.{i}.u"], tensors[f"{site}.{i}.k"], tensors[f"{site}.{i}.lam"]) for i in range(counts[site])
        )

    return Edit(terms("attn"), terms("mlp"), provenance)


_WRITERS: dict[str, Callable[[Any], tuple[dict[str, Tensor], dict[str, Any]]]] = {
    "means": _write_means,
    "directions": _write_directions,
    "attribution": _write_attribution,
    "edit": _write_edit,
}
_READERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any], Provenance], Result]] = {
    "means": _read_means,
    "directions": _read_directions,
    "attribution": _read_attribution,
    "edit": _read_edit,
}
