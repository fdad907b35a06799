"""The page: sections in one self-contained HTML file, for light and dark screens, phones and paper."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.comparison import is_share

HERE = Path(__file__).parent

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; font-src data:"
)
"""The browser itself refuses every request. Plotly compiles its WebGL shaders' code: unsafe-eval."""

ICON = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"

WORDS = {"backbone": "{}", "regime": "{}", "policy": "augmentation {}", "unfreeze_depth": "unfreeze depth {}"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One heading of the page."""

    id: str
    title: str
    body: str
    """HTML."""

    has_figures: bool = False


def make_section(id: str, title: str, *parts: str) -> Section:
    body = "\n".join(part for part in parts if part)
    return Section(id=id, title=title, body=body, has_figures='class="plot"' in body)


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The whole document. Plotly (4.8 MB) is there once, last, so that text shows before it is read."""
    links = "".join(f'<a href="#{one.id}">{escape(one.title)}</a>' for one in sections)
    bodies = "\n".join(
        f'<section id="{one.id}"><h2>{escape(one.title)}</h2>\n{one.body}\n</section>' for one in sections
    )
    plotly = f"<script>{_plotly_source()}</script>" if any(one.has_figures for one in sections) else ""
    script = (HERE / "report.js").read_text(encoding="utf-8")
    style = (HERE / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<link rel="icon" href="{escape(ICON)}">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n"
        f"<main>\n{bodies}\n</main>\n{plotly}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _plotly_source() -> str:
    import importlib.util

    spec = importlib.util.find_spec("plotly")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    source = (folder / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return source.replace("</script", "<\\/script")


def escape(value: Any) -> str:
    return html.escape(str(value))


def paragraph(text: str, *, kind: str = "") -> str:
    """Text of ours or the user's; no markup."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def data_script(content: Any, *, kind: str) -> str:
    """Data for report.js, safe inside HTML whatever names it holds."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c")
    return f'<script type="application/json" class="{kind}">{safe}</script>'


def figure(
    spec: Mapping[str, Any], conclusion: str, *, title: str, height: int = 420, wide: bool = False
) -> str:
    """A plotly figure, drawn when it is scrolled into view, with what to conclude; `wide` ones scroll "
    "on a phone."""
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind}><div class="plot" role="img" aria-label="{escape(title)}" '
        f'style="height:{height}px"></div>{data_script(_finite(spec), kind="spec")}'
        f"<figcaption>{escape(conclusion)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric_from: int = 1) -> str:
    """A plain table; columns from `numeric_from` on are numbers, set right."""

    def cells(values: Sequence[Any], tag: str) -> str:
        kinds = ["" if index < numeric_from else ' class="number"' for index in range(len(values))]
        return "".join(
            f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """Closed until clicked; `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def show_value(metric: str, value: float) -> str:
    """Shares in percent, the rest with four digits."""
    return f"{100 * value:.1f}%" if is_share(metric) else f"{value:.4f}"


def show_seconds(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is readable."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_setting(name: str, value: Any) -> str:
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(shown)


def show_config(row: Mapping[str, Any], searched: Sequence[str]) -> str:
    """Backbone and regime, then what was searched."""
    names = dict.fromkeys(("backbone", "regime", *searched[:6]))
    return ", ".join(show_setting(name, row[name]) for name in names if row.get(name) is not None)


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
