"""The notebooks as files: stored without outputs, and the same as the scripts beside them."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason='nbformat is not installed (pip install -e ".[notebooks]")')

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_and_every_picture_is_introduced(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code" and re.search(r"^(draw|view)_\w+\(", cell.source, re.MULTILINE):
            assert re.search(r"[Ll]ook|score", before.source), f"nothing says what to look at in:\n{cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_the_script_beside_it(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason='jupytext is not installed (pip install -e ".[notebooks]")')
    script = jupytext.read(path.with_suffix(".py"))
    stored = nbformat.read(path, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [(cell.cell_type, cell.source) for cell in script.cells], (
        f"they differ: jupytext --to ipynb {path.with_suffix('.py').name}"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert (FOLDER / target).exists(), target
