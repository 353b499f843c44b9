"""One self-contained HTML page: the answer, a list of contents, sections. It requests nothing."""

from __future__ import annotations

import base64
import html
import io
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NewType
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from xaibench.figures.style import paper_style
from xaibench.files import write_text
from xaibench.report.result_table import ResultTable
from xaibench.report.tables import html_table

__all__ = [
    "Html",
    "Picture",
    "Section",
    "code",
    "colour_key",
    "file_list",
    "folded",
    "paragraph",
    "picture",
    "preformatted",
    "reading",
    "sheet",
    "write_report",
]

Html = NewType("Html", str)
"""A piece of the page: everything given is escaped in it."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_DOTS, _DOTS_ON_DISK = 200, 300  # an inch


@dataclass(frozen=True)
class Section:
    """A heading, which the list of contents names, and what stands below it."""

    title: str
    blocks: Sequence[Html]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, drawn here, or a PNG file of 300 dots an inch.

    caption  what it is and how it is read, below it
    alt      what is seen, for those who do not see it
    """

    figure: Figure | Path
    caption: str
    alt: str


def paragraph(text: str, kind: str = "") -> Html:
    """Text; kind "note" is smaller, "yes" green and "no" red."""
    return Html(f"<p{f' class={kind!r}' * bool(kind)}>{html.escape(text)}</p>")


def code(text: str, before: str = "") -> Html:
    """A command or another text of a machine, after a sentence."""
    return Html(f"<p>{html.escape(before)} <code>{html.escape(text)}</code></p>")


def preformatted(text: str) -> Html:
    """Lines of a machine, as they are."""
    return Html(f'<pre tabindex="0">{html.escape(text)}</pre>')


def folded(summary: str, *blocks: Html) -> Html:
    """Blocks that are shown on demand, and in print."""
    return Html(f"<details><summary>{html.escape(summary)}</summary>\n{chr(10).join(blocks)}</details>")


def sheet(table: pd.DataFrame | ResultTable, caption: str = "", *, digits: int = 3) -> Html:
    """A table that can be sorted and scrolled, with its caption above."""
    if isinstance(table, pd.DataFrame):
        table = ResultTable(table, caption)
    text = html.escape(table.marked_caption)
    data, bold = table.labelled()
    drawn = html_table(data, digits=digits, bold=bold)
    label = html.escape(_first_sentence(table.caption))
    region = f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{drawn}</div>'
    return Html(f'<figure class="sheet"><figcaption>{text}</figcaption>{region}</figure>')


def picture(shown: Picture) -> Html:
    """A figure with its caption below."""
    png, dots = _drawn(shown.figure) if isinstance(shown.figure, Figure) else (shown.figure.read_bytes(), _DOTS_ON_DISK)
    data = base64.b64encode(png).decode("ascii")
    width, height = struct.unpack(">II", png[16:24])  # of the header
    inches = width / dots
    size = f'width="{width}" height="{height}" style="min-width: {min(80 * inches, 560):.0f}px"'
    image = f'<img alt="{html.escape(shown.alt)}" {size} src="data:image/png;base64,{data}">'
    label = html.escape(_first_sentence(shown.caption))
    return Html(
        f'<figure style="max-width: {120 * inches:.0f}px">'
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{image}</div>'
        f"<figcaption>{html.escape(shown.caption)}</figcaption></figure>"
    )


def colour_key(colours: Mapping[str, str]) -> Html:
    """A key of colours: what it stands for -> colour as #rrggbb."""
    items = (
        f'<li><span style="background: {colour}"></span>{html.escape(what)}</li>' for what, colour in colours.items()
    )
    return Html(f'<ul class="key">{"".join(items)}</ul>')


def file_list(names: Mapping[str, str]) -> Html:
    """Links to files that lie beside the page: name -> what it holds."""
    items = (
        f'<li><a href="{quote(name)}">{html.escape(name)}</a>{html.escape(f" {what}".rstrip())}</li>'
        for name, what in names.items()
    )
    return Html(f'<ul class="files">{"".join(items)}</ul>')


def reading() -> Html:
    """How the numbers of the page are read."""
    return Html(_asset("reading.html").strip())


def write_report(path: Path | str, *, title: str, headline: str, sections: Sequence[Section]) -> Path:
    """Write the page atomically and return its path.

    title     of the page
    headline  the answer in one sentence, see `sentences.headline`
    sections  in the order in which they are read; those without blocks are left out

    The page holds its pictures, style and script, and a content security policy that forbids all requests.
    """
    shown = [section for section in sections if section.blocks]
    contents = "".join(f'<li><a href="#{one.anchor}">{html.escape(one.title)}</a></li>' for one in shown)
    body = "\n".join(
        f'<section aria-labelledby="{one.anchor}">\n<h2 id="{one.anchor}">{html.escape(one.title)}</h2>\n'
        + "\n".join(one.blocks)
        + "\n</section>"
        for one in shown
    )
    return write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("report.css")}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p class="headline">{html.escape(headline)}</p>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
{body}
</main>
<script>
{_asset("report.js")}</script>
</body>
</html>
""",
    )


def _asset(name: str) -> str:
    return (files("xaibench.report") / "assets").joinpath(name).read_text(encoding="utf-8")


def _drawn(figure: Figure) -> tuple[bytes, float]:
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue(), _DOTS


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".")
