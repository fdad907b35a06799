"""Cascade: two studies, "one class against the rest" and "the rest", as one classifier of all classes.

The probability of the one class is the first study's, that of another the first's probability of the rest
times the second's of the class. Both must have cut the same images alike, as `--classes FILE` does.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.predictions import Array
from contract.class_names import sort_class_names
from contract.files import plural, printable
from contract.study_layout import StudyPaths

NAMED = 3
"""Images that a message names; the others are counted."""

ABSENT = -1
"""Id of an image that a study does not have."""


@dataclass(frozen=True, eq=False)
class Task:
    """The images of a study, one row an image in each array, in the order of their ids."""

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    groups: NDArray[np.int64]
    digests: tuple[str, ...]
    originals: tuple[str, ...]
    """Class of each image before --classes; where it was not used, the class."""

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What makes an image the same in another study: its content, and its class in the data."""
        return list(zip(self.digests, self.originals, strict=True))


@dataclass(frozen=True, eq=False)
class CascadeImages:
    """Images of one split of the first study, one row each."""

    ids: NDArray[np.int64]
    """In the first study."""

    second_ids: NDArray[np.int64]
    """In the second study; ABSENT for images of the one class, whose probabilities it has to predict anew."""

    labels: NDArray[np.int64]
    """Positions in the classes of the cascade."""

    groups: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cascade:
    """Two studies that fit, and the classes of both together."""

    first: Task
    second: Task
    one: int
    """Class of the first study that stands for itself; its other one is the rest."""

    classes: tuple[str, ...]
    """All classes, sorted as in a study of all of them."""

    pairs: NDArray[np.int64]
    """Id in the second study of each image of the first, or ABSENT."""

    @property
    def rest(self) -> int:
        """Class of the first study that stands for all classes of the second."""
        return 1 - self.one

    @property
    def order(self) -> tuple[int, ...]:
        """Where each class comes from: 0 is the first study's, 1 + k is the second's k-th."""
        parts = (self.first.classes[self.one], *self.second.classes)
        return tuple(parts.index(name) for name in self.classes)

    def merge(self, first: Array, second: Array) -> NDArray[np.float64]:
        """Merge the log-probabilities of the same images into those of all classes [images, classes].

        Args:
            first: [images, 2].
            second: [images, classes of the second study], also of images of the one class.
        """
        own, others = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        parts = [own[:, [self.one]], own[:, [self.rest]] + others]
        return np.ascontiguousarray(np.concatenate(parts, axis=1)[:, list(self.order)])

    def images(self, split: str) -> CascadeImages:
        """The images of "train", "val" or "test"."""
        ids = np.flatnonzero(self.first.splits == split)
        position = {name: number for number, name in enumerate(self.classes)}
        seconds = self.pairs[ids]
        names = (
            self.first.classes[self.one] if at == ABSENT else self.second.classes[self.second.labels[at]]
            for at in seconds.tolist()
        )
        return CascadeImages(
            ids=ids.astype(np.int64),
            second_ids=seconds,
            labels=np.array([position[name] for name in names], dtype=np.int64),
            groups=self.first.groups[ids],
        )


def make_cascade(first_dir: Path, second_dir: Path) -> Cascade:
    """Put two studies together, if they are of the same images and of one cut.

    Raises:
        ValueError: in one line, what does not fit and what to do.
    """
    first, second = load_task(first_dir), load_task(second_dir)
    if len(first.classes) != 2:
        raise ValueError(
            f"study {first.name} has {len(first.classes)} classes: the first of a cascade has two, one class "
            "and the rest (--classes FILE with the rows CLASS,CLASS and *,rest)"
        )
    one = _find_one(first, second)
    name = first.classes[one]
    if name in second.classes:
        raise ValueError(
            f"{name!r} is a class of both studies: call it otherwise in the --classes file of {second.name}"
        )
    pairs = _pair(first, second, one)
    _check_cut(first, second, pairs)
    return Cascade(
        first=first,
        second=second,
        one=one,
        classes=sort_class_names((name, *second.classes)),
        pairs=pairs,
    )


def load_task(study_dir: Path) -> Task:
    """Read the classes and the images of a study.

    Raises:
        ValueError: there are none, or an earlier version wrote them without the digests of their files.
    """
    paths = StudyPaths(study_dir)
    try:
        classes = json.loads(paths.facts.read_text(encoding="utf-8"))["data"]["classes"]
        with paths.manifest.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["id"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{study_dir} is no study with images: {error}") from error
    if not rows or not rows[0].get("digest"):
        raise ValueError(
            f"study {study_dir.name} was made by a version that kept no digests of its images, by which "
            "those of two studies are compared: search again under another --study name"
        )
    return Task(
        name=study_dir.name,
        classes=tuple(str(name) for name in classes),
        paths=tuple(Path(row["path"]) for row in rows),
        labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
        splits=np.array([row["split"] for row in rows], dtype="<U5"),
        groups=np.array([int(row["group"]) for row in rows], dtype=np.int64),
        digests=tuple(row["digest"] for row in rows),
        originals=tuple(row.get("original") or row["class"] for row in rows),
    )


def _find_one(first: Task, second: Task) -> int:
    """The class of the first study of which the second has no image.

    Raises:
        ValueError: it has images of both, or the other class is not what it has.
    """
    known = set(second.digests)
    shared = [
        sum(
            digest in known
            for digest, label in zip(first.digests, first.labels, strict=True)
            if label == number
        )
        for number in (0, 1)
    ]
    one = int(np.argmin(shared))
    if shared[one] or not shared[1 - one]:
        what = "the same images of both classes" if shared[one] else "no image"
        raise ValueError(
            f"{second.name} has {what} of {first.name}: the second study of a cascade has all classes but "
            "one, which its --classes file drops by an empty name"
        )
    return one


def _pair(first: Task, second: Task, one: int) -> NDArray[np.int64]:
    """Id in the second study of each image of the first, or ABSENT; both list equal images in one order.

    Raises:
        ValueError: one of them has an image that the other lacks.
    """
    rows = np.flatnonzero(first.labels != one)
    is_original = set(first.originals) >= set(second.originals)
    ours, theirs = (task.keys if is_original else [(d, "") for d in task.digests] for task in (first, second))
    wanted = Counter(ours[row] for row in rows.tolist())
    lacking, further = wanted - Counter(theirs), Counter(theirs) - wanted
    if lacking or further:
        parts = [
            f"{plural(counted.total(), 'image')} of {has.name} not in {lacks.name} ({_list(named)})"
            for counted, has, lacks in ((lacking, first, second), (further, second, first))
            if (named := list(_name(has, counted, is_original=is_original)))
        ]
        raise ValueError(
            f"the studies are of other images: {', '.join(parts)}; both must begin with the same --data, "
            "--corrections, --min-images and --bad-images"
        )
    waiting: dict[tuple[str, str], list[int]] = {}
    for number in reversed(range(len(theirs))):
        waiting.setdefault(theirs[number], []).append(number)
    pairs = np.full(len(first.labels), ABSENT, dtype=np.int64)
    for row in rows.tolist():
        pairs[row] = waiting[ours[row]].pop()
    return pairs


def _name(task: Task, counted: Counter[tuple[str, str]], *, is_original: bool) -> Iterator[str]:
    digests = {digest for digest, _ in counted}
    for path, digest, original in zip(task.paths, task.digests, task.originals, strict=True):
        if digest in digests and (not is_original or (digest, original) in counted):
            yield f"{path.parent.name}/{path.name}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(printable, names[:NAMED])) + more


def _check_cut(first: Task, second: Task, pairs: NDArray[np.int64]) -> None:
    rows = np.flatnonzero(pairs != ABSENT)
    own, other = first.splits[rows], second.splits[pairs[rows]]
    moved = rows[own != other]
    if len(moved):
        at = int(moved[0])
        raise ValueError(
            f"the studies have cut the same images otherwise: {plural(len(moved), 'image')}, such as "
            f"{first.paths[at].parent.name}/{first.paths[at].name}, {first.splits[at]} in {first.name} and "
            f"{second.splits[pairs[at]]} in {second.name}; both must begin with the same --seed and "
            "--group-by, and with --classes instead of other folders"
        )
