"""CircuitsVis elements as pieces of a page that work without a network and show every token as it is written.

The Python side of CircuitsVis links a CDN and puts tokens into the page as HTML. Here its bundle is inlined, once per page, and
tokens are written so that a browser reads no markup in them.
"""

import html
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from circuitsvis.utils.convert_props import convert_prop_type

from s2e_lens.storage import write_text
from s2e_lens.visualizers.style import NEGATIVE, POSITIVE

WORD_JOINER = "\N{WORD JOINER}"
"""Has no width. After ``<`` or ``&`` it keeps a browser from reading the start of a tag or of a character's name."""

_STYLE = """<style>
.s2e-view { background: white; color: #222; font: 14px/1.45 system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif;
  margin: 0 0 20px; padding: 4px; max-width: 100%; box-sizing: border-box; overflow-wrap: anywhere; }
.s2e-view figcaption { font-weight: 600; margin: 0 0 4px; }
.s2e-view .s2e-note { color: #555; font-size: 13px; margin: 0 0 6px; }
.s2e-view .s2e-key { font-size: 13px; margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: center; }
.s2e-view .s2e-scale { white-space: nowrap; overflow-wrap: normal; }
.s2e-view .s2e-ramp { display: inline-block; width: 72px; height: 12px; border: 1px solid #ccc; vertical-align: -2px;
  margin: 0 2px; }
.s2e-view .s2e-body div:has(> input#number),
.s2e-view .s2e-body div:has(> div > label[for="layer-selector"]) { display: none; }
.s2e-view .s2e-body > div > div { padding-bottom: 8px !important; }
.s2e-view .colored-tokens { padding-bottom: 0 !important; line-height: 1.75; }
.s2e-view .s2e-body:has(canvas) { padding: 0 15px; }
.s2e-view .AttentionPattern { max-width: 520px; }
.s2e-view details { font-size: 13px; margin-top: 8px; }
.s2e-view summary { cursor: pointer; }
.s2e-view .s2e-scroll { overflow: auto; max-height: 320px; }
.s2e-view table.s2e-values { border-collapse: collapse; margin-top: 4px; }
.s2e-view table.s2e-values th, .s2e-view table.s2e-values td { padding: 1px 8px; border-bottom: 1px solid #e4e4e4;
  text-align: right; white-space: pre; font-weight: normal; }
.s2e-view table.s2e-values th { text-align: left; }
.s2e-view table.s2e-values thead th { font-weight: 600; text-align: right; }
.s2e-view table.s2e-values thead th:nth-child(2) { text-align: left; }
@media print {
  .s2e-view details:not([open]), .s2e-view .s2e-hint, .s2e-view .AttentionHeads > div > div > h3 { display: none; }
  .s2e-view .s2e-key { print-color-adjust: exact; }
}
</style>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 8px; background: white; }}</style>
{style}
{script}
</head>
<body>
{body}
</body>
</html>
"""

_DRAW = """<script>
(function draw(tries) {{
  const place = document.getElementById("{div_id}");
  if (place && window.CircuitsVis) {{ CircuitsVis.render("{div_id}", CircuitsVis.{element}, {props}); }}
  else if (tries) {{ setTimeout(() => draw(tries - 1), 50); }}
  else if (place) {{ place.textContent = "This view needs the CircuitsVis bundle in its page."; }}
}})(200);
</script>"""


@dataclass(frozen=True)
class Key:
    """What the colours mean."""

    limit: float
    """The colours run from -limit (red) over 0 (white) to +limit (blue)."""
    positive: str
    negative: str | None
    """None where no value is negative: the key then runs from 0."""
    low: str = NEGATIVE
    high: str = POSITIVE

    def to_html(self) -> str:
        """The key as a line of HTML."""
        high, words = f"{self.limit:.3g}", f"blue: {html.escape(self.positive)}"
        if self.negative is None:
            low, colours = "0", f"white, {self.high}"
        else:
            low, high, words = f"−{high}", f"+{high}", f"red: {html.escape(self.negative)}, {words}"
            colours = f"{self.low}, white, {self.high}"
        ramp = f'<span class="s2e-ramp" style="background: linear-gradient(to right, {colours})" role="presentation"></span>'
        return f'<div class="s2e-key"><span class="s2e-scale">{low} {ramp} {high}</span> <span>{words}</span></div>'


@dataclass(frozen=True)
class TokenView:
    """A CircuitsVis element with its title, the meaning of its colours and, for keyboards and screen readers, its numbers.

    In Jupyter it shows itself. ``write_html`` writes a page, :func:`write_views` one of several views.
    """

    element: str
    """The element's name in CircuitsVis, such as ``ColoredTokens``."""
    props: Mapping[str, Any]
    title: str
    key: Key | None = None
    note: str = ""
    table: str = ""
    """The same numbers as an HTML table, folded away below the view."""
    hint: str = ""
    """What pointing and clicking do: not in pictures, nor on paper."""

    def to_html(self, *, div_id: str | None = None) -> str:
        """A fragment for a page that holds :func:`circuitsvis_js` in a ``<script>``, and :func:`view_style` once."""
        div_id = div_id or f"s2e-{uuid.uuid4().hex[:12]}"
        hint = f'<p class="s2e-note s2e-hint">{html.escape(self.hint)}</p>' if self.hint else ""
        note = f'<p class="s2e-note">{html.escape(self.note)}</p>' if self.note else ""
        table = f"<details><summary>Values as a table</summary>{self.table}</details>" if self.table else ""
        draw = _DRAW.format(div_id=div_id, element=self.element, props=as_json(self.props))
        return (
            f'<figure class="s2e-view"><figcaption>{html.escape(self.title)}</figcaption>{hint}{note}'
            f'{self.key.to_html() if self.key else ""}<div class="s2e-body {self.element}">'
            f'<div id="{div_id}"></div></div>{table}{draw}</figure>'
        )

    def _repr_html_(self) -> str:
        """For Jupyter: whole by itself; a page with several of them runs the bundle once."""
        guarded = (
            f"if (!window.CircuitsVis) {{ window.CircuitsVis = (function () {{ {circuitsvis_js()}\nreturn CircuitsVis; }})(); }}"
        )
        return f"{_STYLE}<script>{guarded}</script>{self.to_html()}"

    def to_page(self, *, title: str = "s2e_lens", bundle_file: str | None = None) -> str:
        """A whole page that needs no network; see :func:`views_page`."""
        return views_page(self, title=title, bundle_file=bundle_file)

    def write_html(self, path: str | Path, *, title: str = "s2e_lens") -> None:
        """Write the view as a page that needs no network and no other file."""
        write_views(path, self, title=title)


@cache
def circuitsvis_js() -> str:
    """The source of CircuitsVis (1.3 MB), to be inlined once per page in a ``<script>``: no part of it ends the script."""
    source = resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    body = source.rpartition("//# sourceMappingURL=")[0] or source
    return body.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def view_style() -> str:
    """The ``<style>`` that views share, for pages that embed :meth:`TokenView.to_html`."""
    return _STYLE


def views_page(*views: TokenView, title: str = "s2e_lens", bundle_file: str | None = None) -> str:
    """A page of several views that holds the bundle once, or links it as ``bundle_file`` beside it.

    The same views give the same page.
    """
    script = f'<script src="{html.escape(bundle_file)}"></script>' if bundle_file else f"<script>{circuitsvis_js()}</script>"
    body = "\n".join(view.to_html(div_id=f"view-{number}") for number, view in enumerate(views))
    return _PAGE.format(title=html.escape(title), style=_STYLE, script=script, body=body)


def write_views(path: str | Path, *views: TokenView, title: str = "s2e_lens") -> None:
    """Write views as one page that needs no network and no other file, whole or not at all."""
    write_text(path, views_page(*views, title=title))


def literal(token: str) -> str:
    r"""A token as CircuitsVis must be given it, so that it shows what is written: markup and all; a newline shows as ``↵``.

    >>> literal("<s>") == "<" + WORD_JOINER + "s>", literal("\n")
    (True, '↵\n')
    """
    for sign in "<&":
        token = token.replace(sign, sign + WORD_JOINER)
    return token.replace("\r", "").replace("\t", "⇥").replace("\n", "↵\n")


def as_json(props: Mapping[str, Any]) -> str:
    """Props as JSON that can stand in a ``<script>``: no ``<``, ``>`` or ``&``, ASCII only, numbers finite."""
    text = json.dumps({name: convert_prop_type(value) for name, value in props.items()}, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def values_table(tokens: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Tokens and their values as an HTML table."""
    head = "".join(f'<th scope="col">{html.escape(label)}</th>' for label in labels)
    lines = (
        f'<tr><td>{number}</td><th scope="row">{html.escape(token)}</th>'
        + "".join(f"<td>{value:+.4g}</td>" for value in row)
        + "</tr>"
        for number, (token, row) in enumerate(zip(tokens, rows, strict=True))
    )
    return (
        '<div class="s2e-scroll" tabindex="0"><table class="s2e-values"><thead><tr><th scope="col">position</th>'
        f'<th scope="col">token</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
