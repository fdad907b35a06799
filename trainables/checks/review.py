"""The review file: a row for every image that a person should decide about, with the reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contract.files import printable
from trainables.checks.findings import CopyGroup, Findings
from trainables.checks.quality import KINDS
from trainables.data.corrections import Correction, ReviewRow, read_review

REVIEW_NAME = "labels.review.csv"


def make_review(findings: Findings, decided: Sequence[Correction] = ()) -> list[ReviewRow]:
    """List the images to decide about, the most suspicious first, after those already decided.

    Args:
        decided: what --corrections said; those rows are kept, and their images are not named again.
    """
    why: dict[int, list[str]] = {}
    suggested = {one.image: findings.listing.classes[one.suggested] for one in findings.suspects}
    for one in findings.suspects:
        why.setdefault(one.image, []).append(one.why)
    for group in findings.copies:
        for image, reason in _about_copies(findings, group):
            why.setdefault(image, []).append(reason)
    for outlier in findings.outliers:
        why.setdefault(outlier.image, []).append(f"unlike the others: {outlier.why}")
    for picture in findings.odd:
        why.setdefault(picture.image, []).append(f"{KINDS[picture.kind].lower()}: {picture.text}")
    rows = [
        ReviewRow(
            findings.name(image), findings.class_of(image), suggested.get(image, ""), "; ".join(reasons)
        )
        for image, reasons in why.items()
        if findings.listing.paths[image] not in findings.decided
    ]
    return [*(one.row for one in decided), *rows]


def _about_copies(findings: Findings, group: CopyGroup) -> list[tuple[int, str]]:
    """Name copies that contradict one another, and those to give up where two splits share a picture."""
    splits, reasons = findings.listing.splits, []
    for image, others in findings.direct_copies(group):
        elsewhere = [one for one in others if findings.class_of(one) != findings.class_of(image)]
        judged = [one for one in others if _rank(splits[one]) > _rank(splits[image])]
        if not elsewhere and not judged:
            continue
        other = (elsewhere or judged)[0]
        is_same = findings.facts[other].digest == findings.facts[image].digest
        same = "the same file as" if is_same else "nearly the same picture as"
        where = f"{findings.class_of(other)!r}" if elsewhere else f"in the {splits[other]} split"
        reasons.append((image, f"{same} {printable(findings.name(other))}, which is {where}"))
    return reasons


def _rank(split: str | None) -> int:
    """Copies in a split of lower rank are named: the test split is the one to keep whole."""
    return {"train": 1, "val": 2, "test": 3}.get(split or "", 1)


def check_not_decided(file: Path) -> None:
    """Refuse to write over a review file in which a person has decided something.

    Raises:
        ValueError: it holds decisions, or is no review file at all.
    """
    if not file.exists():
        return
    decided = sum(bool(row.action) for row in read_review(file))
    if decided:
        raise ValueError(
            f"{file} holds {decided} decisions, which would be written over: pass --corrections {file} to go "
            "on from them, or another name with --review"
        )
