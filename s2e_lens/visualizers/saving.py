"""Figures and views into files: png, svg, pdf and html, all with one browser process."""

import asyncio
import base64
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import plotly.graph_objects as go

from s2e_lens.errors import RenderError
from s2e_lens.storage import atomic_path, check_writable, write_text
from s2e_lens.visualizers.style import write_html

FORMATS = ("png", "svg", "pdf", "html")
COLUMN, FULL = 320, 650
"""Widths in pixels (of 1/96 inch): of one column of a paper, and of its page."""

BEGINNINGS = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}

SCALE = 2.0
"""Dots per pixel of a png: sharp on paper and on most screens."""

NO_BROWSER = (
    "png, svg and pdf need a Chromium or Chrome on this machine, and none {why}. Install one (on Debian and Ubuntu: apt install "
    "chromium; elsewhere: plotly_get_chrome), or name one in the variable BROWSER_PATH."
)
_SETTLED = """
new Promise(done => {
  let last = -1, same = 0;
  const look = () => {
    const height = document.documentElement.scrollHeight;
    same = location.protocol === "file:" && document.readyState === "complete" && height === last ? same + 1 : 0;
    last = height;
    same >= 5 ? done(height) : setTimeout(look, 60);
  };
  look();
})
"""


@runtime_checkable
class View(Protocol):
    """What is not a plotly figure: something that is a page of its own, such as a view of tokens."""

    def to_page(self, *, title: str = "s2e_lens") -> str:
        """A whole page that needs no network."""
        ...


def save_figures(
    figures: Mapping[str, go.Figure | View],
    out: str | Path,
    *,
    formats: Sequence[str] = ("html",),
    width: int = FULL,
    scale: float = SCALE,
) -> list[Path]:
    """Write each figure as ``out/name.format`` in every format, each file whole or not at all; the paths.

    Args:
        figures: plotly figures, or views of tokens (which have no svg).
        out: a folder; it is made if it is not there.
        formats: of ``png``, ``svg``, ``pdf`` and ``html``.
        width: of png, svg and pdf in pixels: 320 fits a column of a paper and 650 its page. A page of html fits its window.
        scale: dots per pixel of a png.

    Raises:
        RenderError: for an unknown format or a size that is none; where there is no browser that could make a picture, the
            figures having been written as html instead; for a view as svg, the rest having been written.
        StorageError: if it cannot be written.
    """
    _check(figures, formats, width, scale)
    folder = Path(out)
    check_writable(folder)
    pictures = [each for each in dict.fromkeys(formats) if each != "html"]
    jobs = {
        folder / f"{name}.{format}": (figure, format)
        for name, figure in figures.items()
        for format in pictures
        if isinstance(figure, go.Figure) or format != "svg"
    }
    written: list[Path] = []
    problem = None
    try:
        made = _in_thread(_render(list(jobs.values()), width, scale)) if jobs else []
    except RenderError as error:
        made, problem = [], error
    for path, content in zip(jobs, made, strict=False):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        written.append(path)
    if "html" in formats or problem:
        for name, figure in figures.items():
            written.append(folder / f"{name}.html")
            _write_page(figure, written[-1], name.replace("_", " "))
    if problem:
        raise RenderError(f"{problem} Written as html instead: {', '.join(map(str, written))}.") from problem
    left = [name for name, figure in figures.items() if not isinstance(figure, go.Figure)]
    if "svg" in formats and left:
        raise RenderError(
            f"{', '.join(left)}: a view of tokens is a web page and has no svg. Take pdf, png or html."
            + (f" Written: {', '.join(map(str, written))}." if written else "")
        )
    return written


def save_figure(figure: go.Figure | View, path: str | Path, *, width: int = FULL, scale: float = SCALE) -> Path:
    """Write one figure; the file's name says the format. See :func:`save_figures`, which is faster for several.

    Raises:
        RenderError: see :func:`save_figures`.
        StorageError: if it cannot be written.
    """
    path = Path(path)
    (written,) = save_figures(
        {path.stem: figure}, path.parent, formats=(path.suffix.removeprefix("."),), width=width, scale=scale
    )
    return written


def _check(figures: Mapping[str, Any], formats: Sequence[str], width: int, scale: float) -> None:
    unknown = [each for each in formats if each not in FORMATS]
    if unknown or not formats:
        raise RenderError(f"the formats are {', '.join(FORMATS)}; got {', '.join(map(repr, unknown)) or 'none'}.")
    if not (100 <= width <= 10_000 and 0.1 <= scale <= 20):
        raise RenderError(f"a picture is 100 to 10,000 pixels wide, at 0.1 to 20 dots each; got width {width}, scale {scale:g}.")
    for name, figure in figures.items():
        if not isinstance(figure, go.Figure | View):
            raise RenderError(f"{name!r} is a {type(figure).__name__}; a plotly figure or a view of tokens is needed.")
        if not name or Path(name).name != name:
            raise RenderError(f"{name!r} cannot be the name of a file.")


def _write_page(figure: go.Figure | View, path: Path, title: str) -> None:
    if isinstance(figure, go.Figure):
        write_html(figure, path, title=title)
    else:
        write_text(path, figure.to_page(title=title))


def _in_thread(work: Any) -> list[bytes]:
    """Wait for a coroutine in a thread of its own: a notebook has a running loop already."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, work).result()
        except (asyncio.CancelledError, CancelledError) as error:  # what a browser that was killed leaves behind
            raise RenderError("the browser ended before the pictures were made.") from error


async def _render(jobs: Sequence[tuple[go.Figure | View, str]], width: int, scale: float) -> list[bytes]:
    """Every picture, in one browser."""
    import kaleido
    from kaleido.errors import BrowserFailedError, ChromeNotFoundError, KaleidoError

    try:
        async with kaleido.Kaleido(n=1, mathjax=False) as browser:  # its MathJax would come from the network
            found = []
            for figure, format in jobs:
                dots = scale if format == "png" else 1.0
                if isinstance(figure, go.Figure):
                    found.append(await browser.calc_fig(figure, opts=_options(figure, format, width, dots)))
                else:
                    found.append(await _print_page(browser, figure.to_page(), format, width, dots))
                if not found[-1].lstrip().startswith(BEGINNINGS[format]):
                    raise RenderError(f"the browser made no {format} of {width} pixels at scale {dots:g}: take a smaller one.")
            return found
    except ChromeNotFoundError as error:
        raise RenderError(NO_BROWSER.format(why="was found")) from error
    except BrowserFailedError as error:
        raise RenderError(NO_BROWSER.format(why="would start")) from error
    except (RuntimeError, ValueError, OSError, KaleidoError) as error:
        raise RenderError(f"the browser could not draw them ({type(error).__name__}: {error}).") from error


def _options(figure: go.Figure, format: str, width: int, scale: float) -> Any:
    layout: Any = figure.layout
    return {"format": format, "width": width, "height": layout.height or 450, "scale": scale}


async def _print_page(browser: Any, page: str, format: str, width: int, scale: float) -> bytes:
    """A web page as a picture of its full height."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.html"
        path.write_text(page, encoding="utf-8")
        tab = await browser.create_tab()
        try:
            size = {"width": width, "deviceScaleFactor": scale, "mobile": False}
            await _ask(tab, "Emulation.setDeviceMetricsOverride", height=10, **size)
            await _ask(tab, "Emulation.setScrollbarsHidden", hidden=True)
            await _ask(tab, "Emulation.setEmulatedMedia", media="print")  # without what is there to be clicked
            await _ask(tab, "Page.navigate", url=path.as_uri())
            height = await _height(tab)
            if format == "pdf":
                margins = dict.fromkeys(("marginTop", "marginBottom", "marginLeft", "marginRight"), 0)
                paper = {"paperWidth": width / 96, "paperHeight": (height + 1) / 96}
                found = await _ask(tab, "Page.printToPDF", printBackground=True, pageRanges="1", **paper, **margins)
            else:
                await _ask(tab, "Emulation.setDeviceMetricsOverride", height=height, **size)
                found = await _ask(tab, "Page.captureScreenshot", format=format)
            return base64.b64decode(found["data"])
        finally:
            await browser.close_tab(tab.target_id)


async def _height(tab: Any, tries: int = 20) -> int:
    """The height of the page in pixels, once it no longer changes."""
    found: Any = None
    for _ in range(tries):  # asked while the page is being replaced, the browser gives no answer
        found = await tab.send_command("Runtime.evaluate", params={"expression": _SETTLED, "awaitPromise": True})
        value = found.get("result", {}).get("result", {}).get("value")
        if value is not None:
            return max(1, int(value))
        await asyncio.sleep(0.1)
    raise RenderError(f"the browser could not show the page: {found}")


async def _ask(tab: Any, command: str, **parameters: Any) -> Any:
    answer = await tab.send_command(command, params=parameters)
    if "error" in answer:
        raise RenderError(f"the browser refuses {command}: {answer['error'].get('message')}")
    return answer["result"]
