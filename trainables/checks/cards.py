"""Draws the cards of a data check's page: a picture with its class, what was found, and its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from contract.files import printable
from contract.html import escape, make_thumbnail
from contract.machine import count_cpus
from trainables.checks.findings import CopyGroup, Findings, LabelSuspect, Outlier, worst_first
from trainables.checks.quality import KINDS

MOST_SUSPECTS, MOST_COPIES, MOST_OUTLIERS, MOST_ODD = 40, 24, 24, 12
"""Cards shown of each kind (groups of copies; odd pictures of each sort); all others stand in the files."""

MOST_IN_GROUP, MOST_NEIGHBOURS = 6, 4
SIDE, SMALL = 150, 56
"""Longest side in pixels of a picture, and of the small ones below it."""

Thumbnails = dict[tuple[int, int], str]
"""Data URI of an image at a size, by (image, side); those that cannot be drawn are missing."""


class Cards:
    """Draws cards of images, with or without the pictures."""

    def __init__(self, findings: Findings, *, with_images: bool) -> None:
        self._findings, self._with_images = findings, with_images
        self._thumbnails = _make_thumbnails(findings) if with_images else {}

    def picture(self, image: int, side: int) -> str:
        source = self._thumbnails.get((image, side))
        if source is None:
            return "<div>(no picture)</div>" if self._with_images else ""
        name = printable(self._findings.name(image))
        return f'<img src="{source}" alt="{escape(name)}" title="{escape(name)}" loading="lazy">'

    def label(self, image: int) -> str:
        split = self._findings.listing.splits[image]
        name = printable(self._findings.class_of(image))
        return f"{name} ({split})" if split else name

    def card(self, image: int, *lines: str, neighbours: Iterable[int] = ()) -> str:
        """A picture over its class, lines of HTML, its path, and the images most like it."""
        small = "".join(
            f"<div>{self.picture(one, SMALL)}{escape(printable(self._findings.class_of(one)))}</div>"
            for one in list(neighbours)[:MOST_NEIGHBOURS]
        )
        said = "".join(f"<div>{line}</div>" for line in lines)
        below = f'<div class="twins">{small}</div>' if small else ""
        path = escape(printable(self._findings.name(image)))
        return (
            f'<div class="card">{self.picture(image, SIDE)}<b>{escape(self.label(image))}</b>{said}'
            f'<div class="path">{path}</div>{below}</div>'
        )


def choose_copies(findings: Findings, group: CopyGroup) -> list[int]:
    """Some of a group, first those with a copy of another class or split."""
    crossing = {
        image
        for image, others in findings.direct_copies(group)
        if len({(findings.class_of(one), findings.listing.splits[one]) for one in (image, *others)}) > 1
    }
    return sorted(group.images, key=lambda image: image not in crossing)[:MOST_IN_GROUP]


def _make_thumbnails(findings: Findings) -> Thumbnails:
    """Draw every picture that the page shows, once, several at a time."""
    wanted = list(dict.fromkeys(_shown(findings)))
    paths = findings.listing.paths

    def draw(one: tuple[int, int]) -> str | None:
        return make_thumbnail(paths[one[0]], side=one[1], deep=findings.deep)

    with ThreadPoolExecutor(count_cpus()) as pool:
        drawn = list(pool.map(draw, wanted))
    return {one: source for one, source in zip(wanted, drawn, strict=True) if source}


def _shown(findings: Findings) -> Iterable[tuple[int, int]]:
    """(image, side) of all pictures on the page."""
    judged: list[LabelSuspect | Outlier] = [
        *findings.suspects[:MOST_SUSPECTS],
        *findings.outliers[:MOST_OUTLIERS],
    ]
    for one in judged:
        yield one.image, SIDE
        yield from ((image, SMALL) for image in one.neighbours[:MOST_NEIGHBOURS])
    for group in worst_first(findings.copies, findings)[:MOST_COPIES]:
        yield from ((image, SIDE) for image in choose_copies(findings, group))
    for kind in KINDS:
        yield from ((one.image, SIDE) for one in [o for o in findings.odd if o.kind == kind][:MOST_ODD])
