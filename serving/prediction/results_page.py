"""Writes a page with the photos that a model is least sure of, the most doubtful first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from contract.decoding import DeepRange
from contract.files import plural, printable, save_text
from contract.html import (
    Section,
    bullets,
    escape,
    make_section,
    make_thumbnail,
    paragraph,
    render_page,
    table,
)
from serving.prediction.photos import Photo, read_photo
from serving.prediction.rows import Row
from serving.prediction.scores import Scores

DEFAULT_SHOWN = 500
SIDE = 150
"""Longest side in pixels of a thumbnail."""

MOST_ERRORS = 50
_STYLE = ".card .unknown { color: var(--bad); font-weight: 600; }\n.path { color: var(--faint); }\n"


@dataclass(frozen=True, slots=True, order=True)
class _Doubtful:
    """A photo in the heap, whose smallest is the surest of those kept."""

    sureness: tuple[float, float]
    number: int = field(compare=True)
    row: Row = field(compare=False)
    photo: Photo = field(compare=False)
    truth: str = field(compare=False)


class MostDoubtful:
    """Keeps the rows of least probability, those of unknown classes before all others."""

    def __init__(self, most: int = DEFAULT_SHOWN) -> None:
        self._most = most
        self._heap: list[_Doubtful] = []
        self._added = 0
        self.errors: list[Row] = []

    def add(self, row: Row, photo: Photo, truth: str) -> None:
        """Look at a row, and keep it if it is doubtful enough."""
        if row.error:
            if len(self.errors) < MOST_ERRORS:
                self.errors.append(row)
            return
        self._added += 1
        # The heap gives up its smallest, so doubt is negative sureness; of equals, the first in order stays.
        doubt = (1.0 if row.unknown else 0.0, -(row.probability or 0.0))
        one = _Doubtful(doubt, -self._added, row, photo, truth)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, one)
        elif self._heap and one > self._heap[0]:
            heapq.heapreplace(self._heap, one)

    def in_order(self) -> list[tuple[Row, Photo, str]]:
        """(row, photo, label) of those kept, the most doubtful first."""
        return [(one.row, one.photo, one.truth) for one in sorted(self._heap, reverse=True)]


def write_results_page(
    path: Path, doubtful: MostDoubtful, scores: Scores, *, title: str, deep: DeepRange, threads: int
) -> None:
    """Write the page.

    Args:
        deep: what is black and white in images of more than 8 bits, as on the model's card.
        threads: that draw thumbnails.
    """
    kept = doubtful.in_order()
    with ThreadPoolExecutor(threads) as pool:
        pictures = list(pool.map(partial(_draw, deep=deep), (photo for _, photo, _ in kept)))
    labels = scores.is_labelled
    cards = [
        _card(row, truth if labels else "", picture)
        for (row, _, truth), picture in zip(kept, pictures, strict=True)
    ]
    num_answered = scores.num_photos - scores.num_errors
    shown = (
        f"the {len(kept):,} most doubtful of {plural(num_answered, 'photo')}, --html-photos shows more"
        if len(kept) < num_answered
        else f"all {plural(num_answered, 'photo')}"
    )
    sections = [
        make_section(
            "summary", "Summary", bullets([f"{plural(scores.num_photos, 'photo')}", *scores.describe()])
        ),
        _make_confusion(scores),
        make_section(
            "photos",
            "By doubt",
            paragraph(f"Unknown ones first, then those of the lowest probability: {shown}.", kind="note"),
            f'<div class="gallery">{"".join(cards)}</div>',
        ),
        _make_errors(doubtful.errors, scores.num_errors),
    ]
    save_text(path, render_page(title, [one for one in sections if one is not None], style=_STYLE))


def _draw(photo: Photo, *, deep: DeepRange) -> str | None:
    try:
        return make_thumbnail(read_photo(photo), side=SIDE, deep=deep)
    except OSError:  # gone since it was predicted
        return None


def _card(row: Row, truth: str, picture: str | None) -> str:
    name = escape(printable(row.path))
    image = (
        f'<img src="{picture}" alt="{name}" title="{name}" loading="lazy">'
        if picture
        else "<div>(no picture)</div>"
    )
    lines = [f"<b>{escape(row.label)}</b> {_percent(row.probability)}"]
    if row.unknown:
        lines.append('<span class="unknown">unknown</span>')
    if row.second:
        lines.append(f"{escape(row.second)} {_percent(row.second_probability)}")
    if len(row.set) > 1:
        lines.append(f"set: {escape(_shorten(row.set))}")
    if truth:
        kind = "right" if truth == row.label else "wrong"
        lines.append(f'<span class="{kind}">is {escape(truth)}</span>')
    said = "".join(f"<div>{line}</div>" for line in lines)
    return f'<div class="card">{image}{said}<div class="path">{name}</div></div>'


def _make_confusion(scores: Scores) -> Section | None:
    if not scores.is_labelled:
        return None
    titles, rows = scores.confusion_rows()
    numeric_from = 1 if scores.shown_classes() else 2
    return make_section("confusion", "Confusions", table(titles, rows, numeric_from=numeric_from))


def _make_errors(errors: Sequence[Row], number: int) -> Section | None:
    if not errors:
        return None
    note = f"The first {len(errors)} of {number:,}." if len(errors) < number else ""
    rows = [(printable(row.path), printable(row.error)) for row in errors]
    parts = (paragraph(note, kind="note") if note else "", table(["path", "error"], rows, numeric_from=2))
    return make_section("errors", "Not read", *parts)


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0):.1f} %"
