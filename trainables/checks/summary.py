"""What a data check found, in a few lines that are printed and stand at the top of the page."""

from __future__ import annotations

from contract.files import printable
from trainables.checks.findings import TINY, Findings


def summarize(findings: Findings) -> list[str]:
    """Say what was found in a line each, the most important first; the same lines are printed."""
    crossing = [group for group in findings.copies if findings.crosses_classes(group)]
    leaking = [group for group in findings.copies if findings.crosses_splits(group)]
    others = len(findings.copies) - len({*crossing, *leaking})
    lines = [
        (len(findings.unreadable), "image cannot be read", "images cannot be read"),
        (len(crossing), "picture stands under two classes", "pictures stand under two classes"),
        (
            len(leaking),
            "picture is in two splits, so that a score counts what was trained on",
            "pictures are in two splits, so that a score counts what was trained on",
        ),
        (len(findings.suspects), "label to look at", "labels to look at"),
        (
            len(findings.outliers),
            "image looks like none of the others",
            "images look like none of the others",
        ),
        (
            len({one.image for one in findings.odd}),
            "image is blank, dark, blurred or odd in another way",
            "images are blank, dark, blurred or odd in another way",
        ),
        (
            others,
            "more picture is there more than once; a search keeps copies in one split",
            "more pictures are there more than once; a search keeps copies in one split",
        ),
        (
            len(findings.tiny_classes),
            f"class has fewer than {TINY} images",
            f"classes have fewer than {TINY} images",
        ),
        (
            len({label for labels in findings.lacking.values() for label in labels}),
            "class is missing in a split",
            "classes are missing in a split",
        ),
        (
            len(findings.pairs),
            "pair of classes is hard to tell apart",
            "pairs of classes are hard to tell apart",
        ),
    ]
    said = [f"{count:,} {one if count == 1 else many}" for count, one, many in lines if count]
    return said or ["nothing was found that speaks against these images"]


def majority_line(findings: Findings) -> str:
    """Say what always answering the largest class would reach."""
    found = findings.imbalance
    name = printable(findings.listing.classes[found.majority])
    return (
        f"always answering {name!r} would be right for {100 * found.accuracy_of_majority:.1f} % of the "
        "images: a classifier has to beat that"
    )
