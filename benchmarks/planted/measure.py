"""Runs the checks on a planted folder, and counts what they find of what was planted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted.plant import Truth, find_photos
from trainables.checks.features import compute_features
from trainables.checks.label_errors import find_label_errors
from trainables.checks.looks import describe_looks
from trainables.checks.near_copies import find_near_copies
from trainables.checks.outliers import find_outliers
from trainables.data.views import storage_size
from trainables.images.store import open_or_build


@dataclass
class Findings:
    """What the checks named in a folder; paths are relative to it."""

    num_images: int
    copies: list[tuple[str, str]]
    suspects: list[str]
    """Images named for a wrong label, the surest first."""

    outliers: list[str]
    seconds: dict[str, float] = field(default_factory=dict)


def run_checks(folder: Path, *, image_size: int, cache_dir: Path) -> Findings:
    """List, decode and check a folder of SPLIT/CLASS/FILE or CLASS/FILE."""
    clock = _Clock()
    photos = find_photos(folder)
    store = open_or_build(
        [path for _, path in photos],
        storage_size=storage_size(image_size, "crop"),
        fit="crop",
        cache_dir=cache_dir,
    )
    rows = np.flatnonzero(store.readable)
    names = [str(path.relative_to(folder)) for _, path in photos]
    _, labels = np.unique([name for name, _ in photos], return_inverse=True)
    clock.note("decode")
    copies = find_near_copies(store.images, rows)
    clock.note("near_copies")
    groups = join_copies(len(photos), [(copy.first, copy.second) for copy in copies], store.digests)[rows]
    features = compute_features(store.images, rows, image_size=image_size, fit="crop")
    clock.note("features")
    suspects = find_label_errors(features, labels[rows].astype(np.int64), groups)
    clock.note("label_errors")
    outliers = find_outliers(features, groups, looks=describe_looks(store.images, rows))
    clock.note("outliers")
    return Findings(
        num_images=len(rows),
        copies=[(names[copy.first], names[copy.second]) for copy in copies],
        suspects=[names[rows[suspect.row]] for suspect in suspects],
        outliers=[names[rows[outlier.row]] for outlier in outliers],
        seconds=clock.seconds,
    )


def join_copies(num: int, pairs: list[tuple[int, int]], digests: tuple[str, ...]) -> NDArray[np.int64]:
    """Group [N] of every image: copies, and copies of copies, share one, and so do equal contents."""
    parent = list(range(num))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    equal = [(first.setdefault(digest, row), row) for row, digest in enumerate(digests) if digest]
    for one, other in [*pairs, *equal]:
        parent[root(other)] = root(one)
    return np.array([root(row) for row in range(num)], dtype=np.int64)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def note(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._began, 2)
        self._began = now


def score(found: Findings, clean: Findings, truth: Truth) -> dict[str, float]:
    """Precision and recall of each check; what it names in the clean set too is left out of the count."""
    source = truth.originals
    known_pairs = {frozenset(pair) for pair in clean.copies}
    real = {frozenset(pair) for pair in truth.copies}
    original = dict(truth.copies)
    hits = {frozenset(pair) for pair in found.copies} & real
    # A copy of an image with a copy of its own, or of two: compare what they are copies of.
    unplanted = {
        frozenset(source.get(original.get(name, name), name) for name in pair) for pair in found.copies
    }
    false = {pair for pair in unplanted if len(pair) == 2 and pair not in known_pairs}
    named = {name for pair in false for name in pair}
    known_suspects, known_outliers = set(clean.suspects), set(clean.outliers)
    planted = set(truth.copies_and_foreign)
    suspects = [name for name in found.suspects if name not in planted]
    suspects = [name for name in suspects if name in truth.relabelled or source[name] not in known_suspects]
    right = [name in truth.relabelled for name in suspects]
    half = -(-len(truth.relabelled) // 2)
    at_half = next((place for place, n in enumerate(np.cumsum(right), 1) if n >= half), 0)
    foreign = set(truth.foreign)
    outliers = [name for name in found.outliers if name in foreign or source.get(name) not in known_outliers]
    outliers = [name for name in outliers if name not in original]
    num_foreign = sum(name in foreign for name in outliers)
    return {
        "copies_recall": len(hits) / max(1, len(real)),
        "copies_false_share": len(named) / max(1, len(source)),
        "copies_unplanted": len(known_pairs),
        "labels_precision": sum(right) / max(1, len(right)),
        "labels_recall": sum(right) / max(1, len(truth.relabelled)),
        "labels_precision_at_half": half / at_half if at_half else 0.0,
        "labels_named_in_clean": len(known_suspects),
        "foreign_precision": num_foreign / max(1, len(outliers)),
        "foreign_recall": num_foreign / max(1, len(foreign)),
        "foreign_named_in_clean": len(known_outliers),
    }
