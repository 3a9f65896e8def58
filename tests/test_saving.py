"""Figures and views as files, with a browser and without one."""

import asyncio
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
import torch

from s2e_lens.errors import RenderError, StorageError
from s2e_lens.visualizers import draw_head_heatmap, head_heatmap_info, save_figure, save_figures
from tests.browser import needs_browser


class Note:
    """A view: a page that grows after it has loaded."""

    def to_page(self, *, title: str = "s2e_lens") -> str:
        later = "setTimeout(() => document.body.insertAdjacentHTML('beforeend', '<div style=height:700px>later</div>'), 150)"
        return f"<!doctype html><title>{title}</title><body style='margin: 0'>now<script>{later}</script>"


def heatmap() -> go.Figure:
    return draw_head_heatmap(head_heatmap_info(torch.randn(3, 4), name="a score"))


def size(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def without_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda **_: None)


@needs_browser
def test_figures_and_views_are_written_in_every_format_by_one_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido

    started = []

    class Counted(kaleido.Kaleido):
        def __init__(self, *args: Any, **options: Any):
            started.append(options)
            super().__init__(*args, **options)

    monkeypatch.setattr(kaleido, "Kaleido", Counted)
    figure = heatmap()
    both = {"heads": figure, "again": figure}
    written = save_figures(both, tmp_path, formats=("png", "svg", "pdf", "html"), width=320, scale=3.0)
    written += save_figures({"note": Note()}, tmp_path, formats=("png", "pdf", "html"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert len(written) == 11
    assert len(started) == 2, "one browser for each call, whatever is written"
    assert size(tmp_path / "heads.png") == (3 * 320, 3 * figure.layout.height)
    root = ElementTree.parse(tmp_path / "heads.svg").getroot()
    assert (root.get("width"), root.get("height")) == ("320", str(figure.layout.height))
    assert all((tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in ("heads", "note"))
    width, height = size(tmp_path / "note.png")
    assert width == 1300
    assert height > 1400, "what came late is in the picture"
    assert "https://" not in (tmp_path / "note.html").read_text(encoding="utf-8")


@needs_browser
def test_a_figure_is_saved_where_an_event_loop_runs(tmp_path: Path) -> None:
    """As in a notebook."""

    async def cell() -> Path:
        return save_figure(heatmap(), tmp_path / "heads.png", width=200, scale=1.0)

    assert size(asyncio.run(cell()))[0] == 200


def test_without_a_browser_html_is_written_and_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_browser(monkeypatch)
    with pytest.raises(RenderError, match=r"none was found\. .*apt install\s+chromium.*Written as html instead: .*heads\.html"):
        save_figures({"heads": heatmap(), "note": Note()}, tmp_path, formats=("png", "pdf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.html", "note.html"]
    save_figures({"heads": heatmap()}, tmp_path / "html", formats=("html",))


def test_a_browser_that_does_not_start_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda **_: "/bin/false")
    with pytest.raises(RenderError, match="none would start"):
        save_figure(heatmap(), tmp_path / "heads.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["heads.html"]


def test_a_view_of_tokens_has_no_svg_but_the_rest_is_written(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="note: a view of tokens is a web page and has no svg"):
        save_figures({"note": Note()}, tmp_path, formats=("svg", "html"))
    assert [path.name for path in tmp_path.iterdir()] == ["note.html"]


@pytest.mark.parametrize(
    ("figures", "options", "message"),
    [
        ({"heads": go.Figure()}, {"formats": ("gif",)}, r"formats are png, svg, pdf, html; got 'gif'"),
        ({"heads": go.Figure()}, {"formats": ()}, "got none"),
        ({"heads": go.Figure()}, {"width": 3}, "100 to 10,000 pixels"),
        ({"heads": go.Figure()}, {"scale": 0.0}, "scale 0"),
        ({"../heads": go.Figure()}, {}, "cannot be the name of a file"),
        ({"": go.Figure()}, {}, "cannot be the name of a file"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    tmp_path: Path, figures: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RenderError, match=message):
        save_figures(figures, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        save_figures({"heads": heatmap()}, tmp_path / "file")


@needs_browser
def test_a_browser_that_dies_midway_leaves_html_and_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido

    async def killed(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(kaleido.Kaleido, "calc_fig", killed)
    with pytest.raises(RenderError, match=r"ended before the pictures were made.*Written as html instead"):
        save_figure(heatmap(), tmp_path / "heads.png")
    assert [path.name for path in tmp_path.iterdir()] == ["heads.html"]


@needs_browser
def test_what_is_no_picture_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A canvas that is too large gives a few bytes, and no error."""
    import kaleido

    async def nothing(*_: Any, **__: Any) -> bytes:
        return b"ta:"

    monkeypatch.setattr(kaleido.Kaleido, "calc_fig", nothing)
    with pytest.raises(RenderError, match="made no png of 650 pixels at scale 2: take a smaller one"):
        save_figure(heatmap(), tmp_path / "heads.png")
    assert [path.name for path in tmp_path.iterdir()] == ["heads.html"]


@needs_browser
def test_drawing_asks_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido

    pages = []

    class Watched(kaleido.PageGenerator):
        def generate_index(self) -> str:
            pages.append(super().generate_index())
            return pages[-1]

    monkeypatch.setattr("kaleido.kaleido.PageGenerator", Watched)
    save_figure(heatmap(), tmp_path / "heads.svg")
    (page,) = pages
    assert "plotly.min.js" in page
    assert "http" not in page
