"""The shell of every HTML page: one self-contained file for light and dark screens, phones and paper."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from contract.decoding import FULL_RANGE, DeepRange, UnreadableImage, decode
from contract.files import printable

_STYLE = Path(__file__).with_name("page.css")
_ICON = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content security policy: the browser refuses every request, so a page sends nothing."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One heading of a page with its content; the navigation has an entry for it."""

    id: str
    title: str
    body: str
    """The content as HTML."""


def make_section(id: str, title: str, *parts: str) -> Section:
    """Join pieces of HTML to a section; empty ones are left out."""
    return Section(id=id, title=title, body="\n".join(part for part in parts if part))


def render_page(
    title: str,
    sections: Sequence[Section],
    *,
    style: str = "",
    scripts: Sequence[str] = (),
    policy: str = POLICY,
) -> str:
    """Assemble the document.

    Args:
        style: CSS of this kind of page, after that of all pages.
        scripts: JavaScript, run at the end of the page, so that text shows before a large one is read.
        policy: Content-Security-Policy of a page that needs more than POLICY allows.
    """
    links = "".join(f'<a href="#{escape(one.id)}">{escape(one.title)}</a>' for one in sections)
    bodies = "\n".join(
        f'<section id="{escape(one.id)}"><h2>{escape(one.title)}</h2>\n{one.body}\n</section>'
        for one in sections
    )
    navigation = f"<nav>{links}</nav>\n" if len(sections) > 1 else ""
    code = "".join(f"<script>\n{_inside_script(script)}</script>\n" for script in scripts)
    return printable(  # file names may hold bytes that are no UTF-8
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<link rel="icon" href="{escape(_ICON)}">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{navigation}<main>\n{bodies}\n</main>\n{code}</body>\n</html>\n"
    )


def escape(value: Any) -> str:
    """Escape a value, so that it is safe between tags and in attributes."""
    return html.escape(printable(value))


def paragraph(text: str, *, kind: str = "") -> str:
    """Make a paragraph of plain text, which is escaped. Kinds with a style: answer, note, warning."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(items: Iterable[str]) -> str:
    """Make a bullet list of plain texts; "" without any."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def details(summary: str, body: str) -> str:
    """Make a block that is closed until clicked; `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric_from: int = 1, wraps: bool = False
) -> str:
    """Make a plain table.

    Args:
        numeric_from: columns from this one on are numbers, aligned right.
        wraps: break long cells, so that a phone shows all columns; else the table scrolls sideways.
    """

    def cells(values: Sequence[Any], tag: str) -> str:
        kinds = ["" if index < numeric_from else ' class="number"' for index in range(len(values))]
        return "".join(
            f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    kind = "wide wraps" if wraps else "wide"
    return f'<div class="{kind}"><table>{top}<tbody>{body}</tbody></table></div>'


def data_script(content: Any, *, kind: str) -> str:
    """Embed data for a script of the page, safe inside HTML; NaN and infinity become null."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = printable(text).replace("<", "\\u003c")
    return f'<script type="application/json" class="{kind}">{safe}</script>'


def make_thumbnail(content: bytes | Path, *, side: int = 160, deep: DeepRange = FULL_RANGE) -> str | None:
    """Make a data URI of an image, at most `side` pixels wide and high; None if it is missing or damaged.

    It shows what a classifier sees: upright, on white, deep greys scaled.
    """
    try:
        small = Image.fromarray(decode(content, at_least=2 * side, deep=deep))
    except (OSError, UnreadableImage):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _inside_script(source: str) -> str:
    return source.replace("</script", "<\\/script")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
