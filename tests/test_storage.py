import ast
import contextlib
import dataclasses
import errno
import json
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import s2e_lens
from s2e_lens import storage
from s2e_lens.errors import ExportError, StorageError
from s2e_lens.export.folder import check_free, new_folder
from s2e_lens.results import (
    Attribution,
    ClassMeans,
    Directions,
    Edit,
    Means,
    Provenance,
    SiteDirections,
    SiteEdit,
    SiteMeans,
)
from s2e_lens.storage import load, save

LAYERS, HEADS, D_HEAD, NEURONS, D_MODEL, EXAMPLES = 2, 3, 4, 6, 5, 7


class Source:
    """Random tensors of one dtype, among them negative zero and values at the edges of the dtype; the same for one seed."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0):
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def tensor(self, *shape: int) -> Tensor:
        made = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)
        limits = torch.finfo(self.dtype)
        edges = [-0.0, limits.max, limits.min, limits.tiny, limits.smallest_normal / 2]
        made.flatten()[: len(edges)] = torch.tensor(edges, dtype=self.dtype)[: made.numel()]
        return made

    def provenance(self, **settings: Any) -> Provenance:
        return Provenance(
            model="some/model",
            weight_hash="xxh3:1234",
            dtype="bfloat16",
            revision="main",
            data_hash="sha256:5678",
            seed=3,
            command="s2e-lens extract --out 'näme'",
            settings=settings,
            versions={"python": "3.99", "torch": "9.9"},
        )

    def class_means(self, count: int, *, keep: bool) -> ClassMeans:
        attn = SiteMeans(self.tensor(LAYERS, HEADS, D_HEAD), self.tensor(LAYERS, D_MODEL))
        mlp = SiteMeans(self.tensor(LAYERS, NEURONS, 1), self.tensor(LAYERS, D_MODEL))
        kept = {site: self.tensor(count, LAYERS, D_MODEL) for site in ("attn", "mlp")} if keep else None
        return ClassMeans(count, attn, mlp, kept)

    def means(self, *, keep: bool = False) -> Means:
        return Means(self.class_means(7, keep=keep), self.class_means(4, keep=keep), self.provenance(of="means"))

    def directions(self, *, keep: bool = False) -> Directions:
        attn, mlp = (SiteDirections(self.tensor(LAYERS, D_MODEL), self.tensor(LAYERS)) for _ in range(2))
        return Directions(attn, mlp, self.means(keep=keep), "difference_of_means", self.provenance(method="difference_of_means"))

    def attribution(self) -> Attribution:
        return Attribution(self.tensor(LAYERS, HEADS), self.tensor(LAYERS, NEURONS), "cosine", self.provenance())

    def site_edit(self, components: int, d_in: int) -> SiteEdit:
        u, k = self.tensor(LAYERS, D_MODEL), self.tensor(LAYERS, components, d_in)
        return SiteEdit(u, k, self.tensor(LAYERS, components))

    def edit(self, heads: int = 1, neurons: int = 1) -> Edit:
        settings = {"rho_attn": 0.1, "rho_mlp": None, "relative": False, "sum_of": [{"alpha": 0.05}]}
        return Edit(
            tuple(self.site_edit(HEADS, D_HEAD) for _ in range(heads)),
            tuple(self.site_edit(NEURONS, 1) for _ in range(neurons)),
            self.provenance(**settings),
        )


MAKE: dict[str, Any] = {
    "means": lambda source: source.means(),
    "means of each example": lambda source: source.means(keep=True),
    "directions": lambda source: source.directions(),
    "directions with examples": lambda source: source.directions(keep=True),
    "attribution": lambda source: source.attribution(),
    "edit": lambda source: source.edit(),
    "edit of heads": lambda source: source.edit(neurons=0),
    "edit of neurons": lambda source: source.edit(heads=0),
    "sum of edits": lambda source: source.edit(heads=2, neurons=3),
}
ONE_OF_EACH = ["means of each example", "directions", "attribution", "sum of edits"]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Everything in a result by its path."""
    parts: dict[str, Any] = {}
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        parts = {str(key): each for key, each in value.items()}
    elif isinstance(value, tuple):
        parts = {str(i): each for i, each in enumerate(value)}
    if not parts:
        return {path: value}
    return {name: found for key, each in parts.items() for name, found in leaves(each, f"{path}.{key}").items()}


def contents(result: Any) -> dict[str, Any]:
    """Everything in a result by its path, tensors as dtype, shape and bytes."""

    def comparable(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).tolist()

    return {path: comparable(value) for path, value in leaves(result).items()}


def saved(tmp_path: Path, kind: str, name: str = "result.safetensors") -> tuple[Any, Path]:
    """A result of a kind, and the file that it was written to."""
    result, path = MAKE[kind](Source()), tmp_path / name
    save(result, path)
    return result, path


def rewrite(path: Path, *, without: str | None = None, **changes: Any) -> None:
    """Change a file behind the package's back: leave a tensor out, or change its header (None takes a key out)."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as archive:
        header = {**json.loads(archive.metadata()["s2e_lens"]), **changes}
    header = {key: value for key, value in header.items() if value is not None}
    save_file({name: each for name, each in tensors.items() if name != without}, path, {"s2e_lens": json.dumps(header)})


def refusal(path: Path, kind: type) -> str:
    """The message of the error at loading, which names the path."""
    with pytest.raises(StorageError) as caught:
        load(path, kind)
    assert str(path) in str(caught.value)
    return str(caught.value)


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# round trips


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", MAKE)
def test_a_result_comes_back_to_the_bit_with_its_provenance(tmp_path: Path, kind: str, dtype: torch.dtype):
    result, path = MAKE[kind](Source(dtype)), tmp_path / "result.safetensors"
    save(result, path)
    found = load(path, type(result))
    assert type(found) is type(result)
    assert contents(found) == contents(result)
    assert found.provenance == result.provenance
    assert contents(found) != contents(MAKE[kind](Source(dtype, seed=1))), "another seed is seen to differ"


def test_examples_are_absent_when_they_were_not_kept(tmp_path: Path):
    for kind, kept in (("means", False), ("means of each example", True)):
        _, path = saved(tmp_path, kind)
        found = load(path, Means)
        assert [each.examples is not None for each in (found.positive, found.negative)] == [kept, kept]


def test_a_model_without_neurons_has_results_too(tmp_path: Path):
    source, path = Source(), tmp_path / "moe.safetensors"
    scores = Attribution(source.tensor(LAYERS, HEADS), torch.zeros(LAYERS, 0), "cosine", source.provenance())
    save(scores, path)
    assert contents(load(path, Attribution)) == contents(scores)


def test_tensors_that_share_memory_or_lie_across_it_are_written_as_they_read(tmp_path: Path):
    source, path = Source(), tmp_path / "edit.safetensors"
    stack = source.tensor(D_MODEL, LAYERS)
    term = SiteEdit(stack.T, source.tensor(LAYERS, 2 * HEADS, D_HEAD)[:, ::2], source.tensor(LAYERS, HEADS))
    twice = Edit((term, term), (), source.provenance())
    save(twice, path)
    assert contents(load(path, Edit)) == contents(twice)


@pytest.mark.parametrize("kind", MAKE)
def test_the_same_result_gives_the_same_bytes(tmp_path: Path, kind: str):
    _, first = saved(tmp_path, kind, "first")
    _, second = saved(tmp_path, kind, "second")
    assert first.read_bytes() == second.read_bytes()
    save(load(first, type(MAKE[kind](Source()))), second)
    assert first.read_bytes() == second.read_bytes(), "also after a round trip"
    save(MAKE[kind](Source(seed=1)), second)
    assert first.read_bytes() != second.read_bytes()


def test_a_file_may_be_read_by_whom_the_umask_lets_read(tmp_path: Path):
    _, path = saved(tmp_path, "edit")
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert path.stat().st_mode == plain.stat().st_mode


def test_folders_on_the_way_are_made(tmp_path: Path):
    save(Source().edit(), tmp_path / "a" / "b" / "edit.safetensors")
    assert set(listing(tmp_path)) == {"a", "a/b", "a/b/edit.safetensors"}


# what cannot be read


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, kind: str):
    result, path = saved(tmp_path, kind)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, (header + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(path, type(result))
    path.write_bytes(whole)
    assert contents(load(path, type(result))) == contents(result), "and the whole file is none"


@pytest.mark.parametrize("content", [b"PK\x03\x04 a pickled file", b"{}", b"\xff" * 64], ids=["zip", "JSON", "noise"])
def test_a_file_of_another_format_is_a_clear_error(tmp_path: Path, content: bytes):
    path = tmp_path / "edit.safetensors"
    path.write_bytes(content)
    assert "cannot be read as safetensors" in refusal(path, Edit)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["no metadata", "other metadata"])
def test_a_safetensors_file_of_others_is_a_clear_error(tmp_path: Path, metadata: dict[str, str] | None):
    path = tmp_path / "model.safetensors"
    save_file({"heads": torch.zeros(2, 3), "neurons": torch.zeros(2, 6)}, path, metadata)
    assert "s2e_lens did not write it" in refusal(path, Attribution)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_another_kind_is_a_clear_error_that_names_both(tmp_path: Path, kind: str):
    result, path = saved(tmp_path, kind)
    for other in {Means, Directions, Attribution, Edit} - {type(result)}:
        message = refusal(path, other)
        assert f"holds {type(result).__name__.lower()!r}; {other.__name__.lower()!r} was needed" in message


def test_a_later_version_is_a_clear_error_that_says_to_update(tmp_path: Path):
    _, path = saved(tmp_path, "edit")
    rewrite(path, version=storage.VERSION)
    load(path, Edit)
    rewrite(path, version=storage.VERSION + 1)
    assert f"version {storage.VERSION + 1}; this s2e_lens reads up to {storage.VERSION}. Update" in refusal(path, Edit)


SAVES_EXAMPLES = ["means of each example", "directions with examples"]


@pytest.mark.parametrize("kind", [*ONE_OF_EACH, "directions with examples"])
def test_every_missing_tensor_is_a_clear_error(tmp_path: Path, kind: str):
    result, path = saved(tmp_path, kind)
    whole = path.read_bytes()
    for name in load_file(path):
        if name.endswith("attn.examples"):
            continue  # the next test
        path.write_bytes(whole)
        rewrite(path, without=name)
        assert name in refusal(path, type(result))


@pytest.mark.parametrize("label", ["positive", "negative"])
@pytest.mark.parametrize("kind", SAVES_EXAMPLES)
def test_a_missing_tensor_of_examples_is_a_clear_error(tmp_path: Path, kind: str, label: str):
    result, path = saved(tmp_path, kind)
    rewrite(path, without=f"means.{label}.attn.examples")
    refusal(path, type(result))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"version": None}, "damaged header"),
        ({"version": "new"}, "damaged header"),
        ({"version": []}, "damaged header"),
        ({"kind": None}, "damaged header"),
        ({"provenance": None}, "incomplete"),
        ({"provenance": {"model": "x"}}, "incomplete"),
        ({"provenance": {"model": "x", "weight_hash": "y", "dtype": "z", "mood": "good"}}, "incomplete"),
        ({"provenance": "x"}, "incomplete"),
        ({"terms": None}, "incomplete"),
        ({"terms": {"attn": 1}}, "incomplete"),
        ({"terms": {"attn": "one", "mlp": 1}}, "incomplete"),
        ({"terms": {"attn": 3, "mlp": 1}}, "incomplete"),
    ],
)
def test_a_damaged_header_is_a_clear_error(tmp_path: Path, changes: dict[str, Any], what: str):
    _, path = saved(tmp_path, "edit")
    rewrite(path, **changes)
    assert what in refusal(path, Edit)


@pytest.mark.parametrize("header", ["", "{", "[]", "3", "null"])
def test_a_header_that_is_no_object_is_a_clear_error(tmp_path: Path, header: str):
    path = tmp_path / "edit.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"s2e_lens": header})
    assert "damaged header" in refusal(path, Edit)


def test_a_missing_file_and_a_directory_are_clear_errors(tmp_path: Path):
    assert "is not there" in refusal(tmp_path / "none.safetensors", Edit)
    assert "or is no file" in refusal(tmp_path, Edit)


# what is not written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", MAKE)
def test_nan_and_infinity_are_refused_wherever_they_are(tmp_path: Path, kind: str, value: float):
    _, path = saved(tmp_path, kind)
    before = listing(tmp_path)
    places = [name for name, each in leaves(MAKE[kind](Source())).items() if isinstance(each, Tensor)]
    assert len(places) >= 2
    for place in places:
        broken = MAKE[kind](Source())
        leaves(broken)[place].view(-1)[-1] = value
        with pytest.raises(StorageError, match="hold NaN or infinity"):
            save(broken, path)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("value", [{"a": float("nan")}, [1.0, float("inf")]])
def test_json_without_a_number_is_refused(tmp_path: Path, value: Any):
    path = tmp_path / "x.json"
    storage.write_json(path, {"é": [1.5, None, "🙂"]})
    before = listing(tmp_path)
    assert json.loads(before["x.json"] or b"") == {"é": [1.5, None, "🙂"]}
    with pytest.raises(StorageError, match="holds NaN or infinity"):
        storage.write_json(path, value)
    assert listing(tmp_path) == before


def _disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_after_some_bytes(tensors: Any, path: Path, metadata: Any) -> None:
    Path(path).write_bytes(b"the beginning of a file")
    _disk_full()


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Writes past this size fail in the operating system, also those of libraries that are not Python."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _patched(target: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


FAILURES: dict[str, Any] = {
    "no room for the tensors": lambda: _patched(storage, "save_file", _full_after_some_bytes),
    "no room when flushing": lambda: _patched(os, "fsync", _disk_full),
    "the rename fails": lambda: _patched(os, "replace", _disk_full),
    "a real limit": lambda: _file_size_limit(600),
}


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_write_leaves_the_old_file_as_it_was_and_nothing_else(tmp_path: Path, failing: Any):
    _, path = saved(tmp_path, "edit")
    before = listing(tmp_path)
    other = Source(seed=1).edit(heads=2)
    with failing(), pytest.raises(StorageError, match="Nothing was changed") as caught:
        save(other, path)
    assert f"cannot write {path}" in str(caught.value)
    assert listing(tmp_path) == before
    save(other, path)
    assert listing(tmp_path) != before, "and without the failure it is written"


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_first_write_leaves_no_file(tmp_path: Path, failing: Any):
    with failing(), pytest.raises(StorageError):
        save(Source().edit(), tmp_path / "edit.safetensors")
    assert listing(tmp_path) == {}


def test_an_interruption_while_writing_leaves_the_old_file(tmp_path: Path):
    def write_half(path: Path) -> None:
        with storage.atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    storage.write_text(tmp_path / "notes.txt", "old")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "notes.txt")
    assert listing(tmp_path) == {"notes.txt": b"old"}


def test_a_directory_in_the_place_of_a_file_is_a_clear_error_and_stays(tmp_path: Path):
    (tmp_path / "edit.safetensors").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        save(Source().edit(), tmp_path / "edit.safetensors")
    assert listing(tmp_path) == {"edit.safetensors": None}


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path):
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user (root?) may write into a read-only folder")
    with pytest.raises(StorageError, match="cannot write"):
        save(Source().edit(), folder / "edit.safetensors")
    assert listing(folder) == {}


@pytest.mark.parametrize("name", ["file/edit.safetensors", "n" * 250], ids=["the folder is a file", "a name too long"])
def test_a_place_where_no_file_can_be_is_a_clear_error(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        save(Source().edit(), tmp_path / name)


# folders


REPORT = {"summary.json": b"{}", "figure.html": b"old", "sub": None, "sub/more.txt": b"old"}


def report(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    for name, content in REPORT.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def fill(folder: Path) -> None:
    storage.write_text(folder / "summary.json", "new")


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_is_new_or_was_empty(tmp_path: Path, empty: bool):
    path = tmp_path / "made" / "out"
    if empty:
        path.mkdir(parents=True)
    with new_folder(path) as folder:
        fill(folder)
        assert not path.exists() or not listing(path), "nothing is seen before it is whole"
    assert listing(tmp_path) == {"made": None, "made/out": None, "made/out/summary.json": b"new"}


def test_an_earlier_report_is_replaced_as_a_whole_but_only_when_told(tmp_path: Path):
    path = report(tmp_path / "out")
    with pytest.raises(ExportError, match="exists and is not empty"), new_folder(path):
        pytest.fail("the block must not be entered")
    assert listing(path) == REPORT
    with new_folder(path, replace_if="summary.json") as folder:
        fill(folder)
        assert listing(path) == REPORT, "the old one stays until the new one is whole"
    assert listing(tmp_path) == {"out": None, "out/summary.json": b"new"}


@pytest.mark.parametrize("replace_if", [None, "summary.json", "sub"])
def test_a_folder_of_something_else_is_refused_and_stays(tmp_path: Path, replace_if: str | None):
    path = report(tmp_path / "out")
    (path / "summary.json").rename(path / "another.json")
    before = listing(tmp_path)
    for refused in (new_folder(path, replace_if=replace_if), contextlib.nullcontext()):
        with pytest.raises(ExportError, match="out exists and is not empty"), refused:
            check_free(path, replace_if=replace_if)
    assert listing(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused_and_stays(tmp_path: Path):
    path = tmp_path / "out"
    path.write_text("a file")
    with pytest.raises(ExportError, match="exists"), new_folder(path, replace_if="summary.json"):
        pytest.fail("the block must not be entered")
    assert listing(tmp_path) == {"out": b"a file"}


def test_free_places_pass_the_check(tmp_path: Path):
    check_free(tmp_path)
    check_free(tmp_path / "new" / "folder")
    check_free(report(tmp_path / "out"), replace_if="summary.json")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, StorageError])
@pytest.mark.parametrize("earlier", [False, True])
def test_an_exception_inside_the_block_leaves_nothing_and_passes(tmp_path: Path, kind: type[BaseException], earlier: bool):
    path = tmp_path / "out"
    if earlier:
        report(path)
    before = listing(tmp_path)

    def fill_half() -> None:
        with new_folder(path, replace_if="summary.json") as folder:
            fill(folder)
            raise kind("of mine")

    with pytest.raises(kind, match="^of mine$"):
        fill_half()
    assert listing(tmp_path) == before


@pytest.mark.parametrize("failing", ["no room when flushing", "the rename fails"])
def test_a_folder_that_cannot_be_finished_leaves_the_earlier_one(tmp_path: Path, failing: str):
    path = report(tmp_path / "out")
    before = listing(tmp_path)
    whole_or_not = new_folder(path, replace_if="summary.json")
    with FAILURES[failing](), pytest.raises(StorageError, match="Nothing was changed"), whole_or_not as folder:
        (folder / "summary.json").write_text("new")
    assert listing(tmp_path) == before


def test_a_failure_between_the_two_renames_puts_the_earlier_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = report(tmp_path / "out")
    before = listing(tmp_path)
    replace = os.replace

    def fails_for_the_new_one(source: Path, target: Path) -> None:
        if Path(source).suffix == ".partial":
            _disk_full()
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new_one)
    with pytest.raises(StorageError, match="Nothing was changed"), new_folder(path, replace_if="summary.json") as folder:
        (folder / "summary.json").write_text("new")
    assert listing(tmp_path) == before


def test_a_link_to_an_earlier_report_can_be_replaced(tmp_path: Path):
    report(tmp_path / "elsewhere")
    path = tmp_path / "out"
    path.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with new_folder(path, replace_if="summary.json") as folder:
        fill(folder)
    assert listing(path) == {"summary.json": b"new"}
    assert not list(tmp_path.glob(".*"))


# never pickle

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle", "eval", "exec"}


def unsafe(source: str) -> list[str]:
    """Imports of pickling modules, and calls that unpickle or run text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
            found.append(ast.unparse(node.func))
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import dill as d", "torch.load(p)", "from torch import load", "x = eval('1')"],
)
def test_the_search_for_pickles_finds_one(source: str):
    assert unsafe(source)
    assert not unsafe("import json\nmodel.eval()\nload(p, Edit)\nfrom s2e_lens.storage import load")


def test_no_module_of_the_package_unpickles_or_runs_text():
    files = sorted(Path(s2e_lens.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    assert {str(file): found for file in files if (found := unsafe(file.read_text(encoding="utf-8")))} == {}
