"""The page of a data check: what was understood and what was found, in plain words, with the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contract.files import printable, write_aside
from contract.html import (
    Section,
    bullets,
    details,
    escape,
    make_section,
    paragraph,
    render_page,
    table,
)
from trainables.checks.cards import (
    MOST_COPIES,
    MOST_IN_GROUP,
    MOST_ODD,
    MOST_OUTLIERS,
    MOST_SUSPECTS,
    Cards,
    choose_copies,
)
from trainables.checks.findings import (
    SPLITS,
    TINY,
    CopyGroup,
    Findings,
    worst_first,
)
from trainables.checks.quality import KINDS, ODD
from trainables.checks.summary import majority_line, summarize
from trainables.data.datasets import list_names

MOST_LISTED, SHOWN_CLASSES = 100, 30

STYLE = """
.card .path { color: var(--faint); font-size: .75rem; } .card .twins { flex-wrap: wrap; }
.card .twins div { width: 60px; font-size: .7rem; line-height: 1.2; } .card .twins img { width: 56px; }
.groups, .group { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-start; }
.groups { gap: 1rem 1.6rem; } .group .card { width: 150px; }
"""


def write_page(findings: Findings, file: Path, *, review: Path | None, with_images: bool = True) -> None:
    """Write the page.

    Args:
        review: where the review file is; None if there is nothing to decide.
        with_images: False = names only, no photo.

    Raises:
        OSError: it cannot be written.
    """
    draw = Cards(findings, with_images=with_images)
    sections = [
        _summary(findings, review),
        _data(findings),
        _suspects(findings, draw),
        _copies(findings, draw),
        _outliers(findings, draw),
        _odd(findings, draw),
        _classes(findings),
        _files(findings),
        _method(findings),
    ]
    page = render_page(f"Data check: {printable(findings.listing.source)}", sections, style=STYLE)
    with write_aside(file) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _summary(findings: Findings, review: Path | None) -> Section:
    tiles = [
        ("images", len(findings.listing.paths)),
        ("classes", len(findings.listing.classes)),
        ("cannot be read", len(findings.unreadable)),
        ("labels to look at", len(findings.suspects)),
        ("copied pictures", len(findings.copies)),
        ("unlike the others", len(findings.outliers)),
    ]
    shown = "".join(
        f'<div class="tile"><b>{count:,}</b><span>{escape(what)}</span></div>' for what, count in tiles
    )
    return make_section(
        "summary",
        "In short",
        f'<div class="tiles">{shown}</div>',
        bullets(_upper(line) + "." for line in summarize(findings)),
        *(paragraph(printable(note.text)) for note in findings.listing.notes if note.kind == "corrected"),
        paragraph(findings.not_checked, kind="warning") if findings.not_checked else "",
        "<h3>What to do</h3>",
        paragraph("Nothing was changed or left out: you decide.")
        if review is None
        else _how_to_decide(review),
    )


def _how_to_decide(review: Path) -> str:
    steps = [
        f"Open {review.name} in a spreadsheet. It has a row for every image that is named on this page, with "
        "the reason.",
        "Write one of three words in the column action: relabel (the column suggested holds the right class; "
        "change it if need be), drop (leave the image out), keep (it is right as it is).",
        "Leave action empty where you are not sure: such a row changes nothing.",
        f"Save it and pass it on: python tune.py … --corrections {review.name}. Your image files stay as "
        "they are.",
    ]
    return bullets(map(printable, steps))


def _data(findings: Findings) -> Section:
    rows, names = findings.class_table(), ("train", "val", "test", "")
    used = [split for split in names if any(split in held for _, held in rows)]
    head = ("class", *(split or "no split yet" for split in used), "all", "share")
    total = max(len(findings.listing.paths), 1)
    cells = [
        (
            printable(name),
            *(f"{held.get(split, 0):,}" for split in used),
            f"{sum(held.values()):,}",
            f"{100 * sum(held.values()) / total:.1f} %",
        )
        for name, held in rows
    ]
    listed = table(head, cells)
    has_splits = any(split in SPLITS for split in used)
    notes = [printable(f"{note.kind}: {note.text}") for note in findings.listing.notes]
    return make_section(
        "data",
        "How the data were read",
        paragraph(
            f"{printable(findings.listing.source)}: {total:,} images of {len(rows):,} classes. "
            + (
                "They come with splits, which a search keeps."
                if has_splits
                else "They come without splits: a search cuts them into train, val and test."
            )
        ),
        bullets(notes[:MOST_LISTED]),
        listed if len(rows) <= SHOWN_CLASSES else details(f"table of the {len(rows):,} classes", listed),
    )


def _suspects(findings: Findings, draw: Cards) -> Section:
    cards = [
        draw.card(
            one.image,
            f'<span class="right">looks like {_class_name(findings, one.suggested)}</span>',
            escape(printable(one.why)),
            neighbours=one.neighbours,
        )
        for one in findings.suspects[:MOST_SUSPECTS]
    ]
    return make_section(
        "labels",
        "Labels to look at",
        paragraph(
            "A simple classifier, which never saw the image in training, takes it for another class, and so "
            "do the images most like it (small, with their classes). The most suspicious come first. Some "
            "are wrong labels, some are right and hard: look before you decide."
        )
        if cards
        else _none(findings, "No label stands out as wrong."),
        _gallery(cards),
        _more(len(findings.suspects), len(cards)),
    )


def _copies(findings: Findings, draw: Cards) -> Section:
    groups = worst_first(findings.copies, findings)
    shown = "".join(_copy_group(findings, group, draw) for group in groups[:MOST_COPIES])
    return make_section(
        "copies",
        "Copies",
        paragraph(
            "The same picture more than once. Under two classes, at least one label is wrong. In two splits, "
            "the model is tested on what it was trained on, and its score is too good. Within one class and "
            "split a copy does no harm, but counts twice."
        )
        if groups
        else paragraph("No picture is there twice."),
        f'<div class="groups">{shown}</div>' if shown else "",
        _more(len(groups), min(len(groups), MOST_COPIES)),
    )


def _copy_group(findings: Findings, group: CopyGroup, draw: Cards) -> str:
    same = "The same file" if group.is_exact else "Nearly the same picture"
    where = [
        *(["under two classes"] if findings.crosses_classes(group) else []),
        *(["in two splits"] if findings.crosses_splits(group) else []),
    ]
    cards = "".join(draw.card(image) for image in choose_copies(findings, group))
    more = len(group.images) - MOST_IN_GROUP
    times = "twice" if len(group.images) == 2 else f"{len(group.images)} times"
    line = f"{same} {times}{', ' + ' and '.join(where) if where else ''}"
    kind = "warning" if where else "note"
    below = _more(more, 0) if more > 0 else ""
    return f'<div>{paragraph(line, kind=kind)}<div class="group">{cards}</div>{below}</div>'


def _outliers(findings: Findings, draw: Cards) -> Section:
    cards = [
        draw.card(one.image, escape(printable(one.why)), neighbours=one.neighbours)
        for one in findings.outliers[:MOST_OUTLIERS]
    ]
    return make_section(
        "outliers",
        "Unlike the others",
        paragraph(
            "These look like no other image here: a picture of something else, a drawing among photos, or a "
            "rare but right one. The strangest come first."
        )
        if cards
        else _none(findings, "No image stands apart from all others."),
        _gallery(cards),
        _more(len(findings.outliers), len(cards)),
    )


def _odd(findings: Findings, draw: Cards) -> Section:
    parts = []
    for kind, title in KINDS.items():
        found = [one for one in findings.odd if one.kind == kind]
        if found:
            cards = [draw.card(one.image, escape(one.text)) for one in found[:MOST_ODD]]
            parts += [
                f"<h3>{escape(title)} ({len(found):,})</h3>",
                _gallery(cards),
                _more(len(found), len(cards)),
            ]
    return make_section(
        "odd",
        "Dark, blurred and other odd pictures",
        paragraph(
            "Each lies far from what is usual here, among all images and in its own class. Such a picture "
            "may be as it should be: look."
            if parts
            else "No picture is blank, very dark or bright, blurred, grainy, tiny or of an unusual shape."
        ),
        *parts,
    )


def _classes(findings: Findings) -> Section:
    classes, found = findings.listing.classes, findings.imbalance
    tiny = [
        f"{printable(classes[label])}: {findings.counts[label]} images" for label in findings.tiny_classes
    ]
    lacking = [
        f"{split}: no image of {list_names([classes[label] for label in labels], most=12)}"
        for split, labels in findings.lacking.items()
    ]
    pairs = [
        f"{printable(classes[pair.classes[0]])} and {printable(classes[pair.classes[1]])}: {pair.why}"
        for pair in findings.pairs
    ]
    return make_section(
        "classes",
        "Classes",
        paragraph(
            f"{_upper(majority_line(findings))}. The largest class has {found.ratio:.1f} times the images "
            f"of the smallest."
        ),
        paragraph(found.advice, kind="warning") if found.advice else "",
        f"<h3>Fewer than {TINY} images</h3>" if tiny else "",
        bullets(tiny[:MOST_LISTED]),
        _more(len(tiny), min(len(tiny), MOST_LISTED)),
        "<h3>Missing in a split</h3>" if lacking else "",
        bullets(lacking),
        "<h3>Hard to tell apart</h3>" if pairs else "",
        paragraph("Are these meant to be two classes? If so, they need the most images, or a better camera.")
        if pairs
        else "",
        bullets(map(printable, pairs[:MOST_LISTED])),
    )


def _files(findings: Findings) -> Section:
    rows = [
        (printable(findings.name(image)), printable(findings.class_of(image)), findings.facts[image].reason)
        for image in findings.unreadable
    ]
    return make_section(
        "files",
        "Files",
        paragraph(
            "A search leaves these out and says so (--bad-images refuse makes it stop instead). Save them "
            "anew from the original, or remove them."
            if rows
            else "Every file can be read."
        ),
        table(("file", "class", "why"), rows[:MOST_LISTED], numeric_from=3) if rows else "",
        _more(len(rows), min(len(rows), MOST_LISTED)),
        "<h3>Files that are used, but odd</h3>" if findings.file_notes else "",
        bullets(printable(note.text) for note in findings.file_notes),
    )


def _method(findings: Findings) -> Section:
    rows = [(phase, f"{time:.1f}") for phase, time in findings.seconds.items()]
    return make_section(
        "method",
        "How it was checked",
        bullets(
            [
                "Exact copies have the same content, byte for byte.",
                "Labels and outliers are judged by what a pretrained network sees in the images. It runs on "
                "this machine; no image leaves it.",
                f"Odd pictures lie {ODD:g} robust standard deviations or more from the median, both among "
                "all images and in their class. Detail is the variance of the Laplacian over that of the "
                "grey values.",
                "Images of a test split are checked too: that is about the data, and trains nothing.",
            ]
        ),
        table(("step", "seconds"), rows),
    )


def _none(findings: Findings, text: str) -> str:
    """Say that nothing was found, or, where it was not looked for, why."""
    return paragraph(findings.not_checked or text)


def _gallery(cards: Sequence[str]) -> str:
    return f'<div class="gallery">{"".join(cards)}</div>' if cards else ""


def _more(count: int, shown: int) -> str:
    return (
        paragraph(f"… and {count - shown:,} more, all in the files of this check.", kind="note")
        if count > shown
        else ""
    )


def _class_name(findings: Findings, label: int) -> str:
    return escape(printable(findings.listing.classes[label]))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
