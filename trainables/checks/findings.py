"""Findings: everything that the checks of a data set found, as one value and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.decoding import FULL_RANGE, DeepRange
from trainables.checks.quality import OddPicture
from trainables.data.corrections import data_folder, short_path
from trainables.data.datasets import ImageListing, Note
from trainables.data.groups import join_groups
from trainables.images.decoding import ImageFact

FORMAT = 1
"""Version of the JSON."""

TINY = 10
"""A class with fewer images has at most two to validate it with, so that its score says little."""

UNEQUAL = 4.0
"""Largest over smallest class from which the accuracy hides how the small classes do."""

SPLITS = ("train", "val", "test")
SUGGESTED_METRIC = "val_macro_f1"


@dataclass(frozen=True)
class CopyGroup:
    """Images that show the same."""

    images: tuple[int, ...]
    is_exact: bool
    """Byte for byte, or else the same picture saved anew, resized or slightly cropped."""

    near: tuple[tuple[int, int], ...] = ()
    """Pairs that are near copies: the first and the last of a long chain need not be."""


@dataclass(frozen=True)
class LabelSuspect:
    """An image that looks like another class than its own."""

    image: int
    suggested: int
    """Position in the classes."""

    why: str
    score: float
    """Larger is more suspicious."""

    neighbours: tuple[int, ...] = ()
    """Images that look most like it."""


@dataclass(frozen=True)
class Outlier:
    """An image that looks like none of the others."""

    image: int
    why: str
    score: float
    neighbours: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassPair:
    """Two classes that are hard to tell apart, or one another's doubles."""

    classes: tuple[int, int]
    why: str
    confusion: float
    """Share of their images that are taken for the other one's, 0 to 1."""


@dataclass(frozen=True)
class Imbalance:
    """How unequal the classes are, and what it means for the score."""

    majority: int
    """The largest class."""

    accuracy_of_majority: float
    """Accuracy of always answering the largest class."""

    ratio: float
    """Images of the largest class over those of the smallest."""

    advice: str
    """Empty where accuracy is a fair measure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What was found; images are positions in the listing, classes positions in its classes."""

    listing: ImageListing
    facts: tuple[ImageFact, ...]
    deep: DeepRange = FULL_RANGE
    """What is black and white in images of more than 8 bits."""

    file_notes: tuple[Note, ...] = ()
    """What is odd about files that are used, with counts."""

    copies: tuple[CopyGroup, ...] = ()
    suspects: tuple[LabelSuspect, ...] = ()
    """The most suspicious first."""

    outliers: tuple[Outlier, ...] = ()
    odd: tuple[OddPicture, ...] = ()
    pairs: tuple[ClassPair, ...] = ()
    decided: frozenset[Path] = frozenset()
    """Images on which a person has decided by --corrections, and which are not named again."""

    not_checked: str = ""
    """Which checks were left out, and why; empty if none."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time by phase."""

    @property
    def unreadable(self) -> list[int]:
        return [image for image, fact in enumerate(self.facts) if not fact.ok]

    @property
    def remarks(self) -> dict[str, list[int]]:
        """Readable images by what decoding remarked about their files."""
        found: dict[str, list[int]] = defaultdict(list)
        for image, fact in enumerate(self.facts):
            for remark in fact.remarks:
                found[str(remark)].append(image)
        return dict(found)

    @cached_property
    def folder(self) -> Path:
        return data_folder(self.listing)

    def name(self, image: int) -> str:
        """The image's path below the data's own folder, or its whole path."""
        return short_path(self.listing.paths[image], self.folder)

    def class_of(self, image: int) -> str:
        return self.listing.classes[self.listing.labels[image]]

    def crosses_classes(self, group: CopyGroup) -> bool:
        """Whether two images that are copies of one another have different classes."""
        labels = self.listing.labels
        return any(
            labels[image] != labels[one] for image, others in self.direct_copies(group) for one in others
        )

    def crosses_splits(self, group: CopyGroup) -> bool:
        """Whether copies lie in two of the splits that the data came with."""
        splits = self.listing.splits
        return any(
            splits[image] and splits[one] and splits[image] != splits[one]
            for image, others in self.direct_copies(group)
            for one in others
        )

    def direct_copies(self, group: CopyGroup) -> Iterator[tuple[int, list[int]]]:
        """Yield each image with one copy of every class and split, without those that only a chain joins."""
        held: dict[str, dict[tuple[int, str | None], int]] = defaultdict(dict)
        for image in group.images:
            kind = int(self.listing.labels[image]), self.listing.splits[image]
            held[self.facts[image].digest].setdefault(kind, image)
        near: dict[str, set[str]] = defaultdict(set)
        for ends in group.near:
            first, second = (self.facts[image].digest for image in ends)
            near[first].add(second)
            near[second].add(first)
        for image in group.images:
            own = self.facts[image].digest
            yield image, [one for digest in (own, *sorted(near[own])) for one in held[digest].values()]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Readable images of each class."""
        ok = [fact.ok for fact in self.facts]
        return np.bincount(self.listing.labels[ok], minlength=len(self.listing.classes)).astype(np.int64)

    @property
    def tiny_classes(self) -> list[int]:
        return [int(label) for label in np.flatnonzero(self.counts < TINY)]

    @property
    def lacking(self) -> dict[str, list[int]]:
        """Classes without a readable image, by the split that the data came with."""
        ok = [fact.ok for fact in self.facts]
        splits = np.array([split or "" for split in self.listing.splits])[ok]
        labels = self.listing.labels[ok]
        found = {
            split: sorted(set(range(len(self.listing.classes))) - set(labels[splits == split].tolist()))
            for split in SPLITS
            if (splits == split).any()
        }
        return {split: missing for split, missing in found.items() if missing}

    @property
    def imbalance(self) -> Imbalance:
        return weigh_classes(self.counts)

    def class_table(self) -> list[tuple[str, dict[str, int]]]:
        """Name of each class, with its images a split that the data came with; "" holds those without."""
        held: dict[int, Counter[str]] = defaultdict(Counter)
        for label, split in zip(self.listing.labels.tolist(), self.listing.splits, strict=True):
            held[label][split or ""] += 1
        return [(name, dict(held[label])) for label, name in enumerate(self.listing.classes)]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        return {
            "format": FORMAT,
            "source": self.listing.source,
            "folder": str(self.folder),
            "num_images": len(self.listing.paths),
            "classes": [
                {"name": name, "images": sum(splits.values()), "splits": splits}
                for name, splits in self.class_table()
            ],
            "notes": [
                {"kind": note.kind, "text": note.text, "count": note.count}
                for note in (*self.listing.notes, *self.file_notes)
            ],
            "not_checked": self.not_checked,
            "unreadable": [
                self._describe(image) | {"reason": self.facts[image].reason} for image in self.unreadable
            ],
            "remarks": {
                remark: [self.name(image) for image in images] for remark, images in self.remarks.items()
            },
            "copies": [self._describe_copies(group) for group in self.copies],
            "label_suspects": [
                self._describe(one.image)
                | {
                    "suggested": self.listing.classes[one.suggested],
                    "why": one.why,
                    "score": round(one.score, 4),
                    "neighbours": [self._describe(image) for image in one.neighbours],
                }
                for one in self.suspects
            ],
            "outliers": [
                self._describe(one.image) | {"why": one.why, "score": round(one.score, 4)}
                for one in self.outliers
            ],
            "odd_pictures": [
                self._describe(one.image)
                | {"kind": one.kind, "why": one.text, "distance": min(one.distance, 1e9)}
                for one in self.odd
            ],
            "class_pairs": [
                {
                    "classes": [self.listing.classes[label] for label in pair.classes],
                    "why": pair.why,
                    "confusion": round(pair.confusion, 4),
                }
                for pair in self.pairs
            ],
            "tiny_classes": [self.listing.classes[label] for label in self.tiny_classes],
            "lacking": {
                split: [self.listing.classes[label] for label in labels]
                for split, labels in self.lacking.items()
            },
            "imbalance": asdict(self.imbalance) | {"majority": self.listing.classes[self.imbalance.majority]},
            "seconds": {phase: round(time, 2) for phase, time in self.seconds.items()},
        }

    def _describe(self, image: int) -> dict[str, Any]:
        return {
            "path": self.name(image),
            "given": self.class_of(image),
            "split": self.listing.splits[image],
        }

    def _describe_copies(self, group: CopyGroup) -> dict[str, Any]:
        return {
            "images": [self._describe(image) for image in group.images],
            "exact": group.is_exact,
            "across_classes": self.crosses_classes(group),
            "across_splits": self.crosses_splits(group),
        }


def group_copies(facts: Sequence[ImageFact], near: Iterable[tuple[int, int]] = ()) -> list[CopyGroup]:
    """Group the readable files that are equal byte for byte, and those that a chain of near copies joins."""
    digests = [fact.digest if fact.ok else "" for fact in facts]
    near = [pair for pair in near if digests[pair[0]] != digests[pair[1]]]
    numbers = join_groups(len(facts), [digests], near).tolist()
    groups: dict[int, list[int]] = defaultdict(list)
    pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for image, number in enumerate(numbers):
        groups[number].append(image)
    for pair in near:
        pairs[numbers[pair[0]]].append(pair)
    return [
        CopyGroup(tuple(images), is_exact=number not in pairs, near=tuple(pairs.get(number, ())))
        for number, images in groups.items()
        if len(images) > 1
    ]


def weigh_classes(counts: NDArray[np.int64]) -> Imbalance:
    """Say what always answering the largest class would reach, and what to optimize where that is much."""
    majority, present = int(counts.argmax()), counts[counts > 0]
    total = max(int(counts.sum()), 1)
    ratio = float(counts.max() / present.min()) if len(present) else 1.0
    advice = ""
    if ratio >= UNEQUAL:
        advice = (
            f"Pass --metric {SUGGESTED_METRIC} to tune.py: the mean F1 of the classes counts every class "
            "alike, where accuracy counts every image alike and hides how small classes do."
        )
    return Imbalance(majority, float(counts[majority] / total), ratio, advice)


def worst_first(groups: Iterable[CopyGroup], findings: Findings) -> list[CopyGroup]:
    """Order copies: those under two classes first, then those in two splits; exact before near ones."""

    def rank(group: CopyGroup) -> tuple[bool, bool, bool]:
        return (
            not findings.crosses_classes(group),
            not findings.crosses_splits(group),
            not group.is_exact,
        )

    return sorted(groups, key=rank)
