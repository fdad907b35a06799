"""What a frozen backbone's features say of the images: doubtful labels, outliers, classes that are alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainables.checks.class_pairs import find_class_pairs
from trainables.checks.findings import Findings, LabelSuspect, Outlier
from trainables.checks.label_errors import judge_labels
from trainables.checks.outliers import find_outliers
from trainables.data.datasets import ImageListing
from trainables.data.groups import join_groups

Rows = NDArray[np.int64]

FEWEST = 10
"""Readable images below which nothing can be said."""


def judge_images(
    findings: Findings,
    features: NDArray[np.float32],
    rows: Rows,
    *,
    looks: NDArray[np.float32] | None = None,
) -> Findings:
    """Add doubtful labels, outliers and classes that are alike, by the features [len(rows), D] of images.

    Copies and images of one group (--group-by) stand on one side of every comparison, so that they do not
    confirm one another's labels.

    Args:
        looks: [len(rows), 9] from `describe_looks`; outliers are judged by them too.
    """
    if len(rows) < FEWEST:
        return replace(findings, not_checked=f"labels and outliers: fewer than {FEWEST} images can be read")
    listing = findings.listing
    labels, groups = listing.labels[rows], find_groups(findings)[rows]
    wrong, likely = judge_labels(features, labels, groups)
    suspects = [
        LabelSuspect(
            image=int(rows[one.row]),
            suggested=one.suggested,
            why=_say_why(listing, int(rows[one.row]), one.suggested, rows[list(one.neighbours)]),
            score=one.score,
            neighbours=tuple(rows[list(one.neighbours)].tolist()),
        )
        for one in wrong
    ]
    outliers = [
        Outlier(int(rows[one.row]), f"{one.score:.1f} from the others, where most are below 1", one.score)
        for one in find_outliers(features, groups, looks=looks)
    ]
    predicted = np.full(len(listing.labels), -1, dtype=np.int64)
    predicted[rows] = likely
    pairs = find_class_pairs(listing.labels, predicted)
    return replace(findings, suspects=tuple(suspects), outliers=tuple(outliers), pairs=tuple(pairs))


def find_groups(findings: Findings) -> Rows:
    """Group [N] of every image: copies, and what --group-by puts together."""
    copied = [""] * len(findings.listing.paths)
    for number, group in enumerate(findings.copies):
        for image in group.images:
            copied[image] = f"copies {number}"
    keys = [copied, findings.listing.groups] if findings.listing.groups else [copied]
    return join_groups(len(copied), keys)


def _say_why(listing: ImageListing, image: int, suggested: int, neighbours: Rows) -> str:
    alike = int((listing.labels[neighbours] == suggested).sum())
    name = listing.classes[suggested]
    voice = f"; {alike} of the {len(neighbours)} images most like it are {name!r}" if alike else ""
    return f"more like {name!r} than {listing.classes[listing.labels[image]]!r}{voice}"
