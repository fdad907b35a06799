"""Reads classes and splits off the folders of a source; local folders and buckets follow the same rules."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from contract.files import plural
from trainables.data.datasets._listing import Note, list_names, spell_class
from trainables.data.datasets._tree import Folder, describe_counts

ALIASES = {
    "train": ("train", "training", "trains", "trn", "trainval", "learn", "learning"),
    "val": (
        "val",
        "valid",
        "validation",
        "validate",
        "vali",
        "dev",
        "develop",
        "development",
        "eval",
        "evaluation",
    ),
    "test": ("test", "testing", "tests", "tst", "holdout", "heldout"),
}
"""Words that data sets use for each split, in lower case."""

_SPLIT_OF = {word: split for split, words in ALIASES.items() for word in words}
_FILLERS = frozenset(
    ("set", "split", "images", "image", "imgs", "img", "data", "dataset", "folder", "ds", "photos")
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")

ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))
TABLES = frozenset((".csv", ".tsv"))
_QUIET = frozenset(
    (".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml", ".csv", ".tsv", ".html", ".pdf", "")
)
"""Suffixes of files that nobody expects to be read as images."""


class LayoutRow(NamedTuple):
    """An image of a tree: its path from the root, its class, split, and path below the class folder."""

    path: str
    label: str
    split: str | None
    name: str


class _Class(NamedTuple):
    """A folder that is a class, or one split of it."""

    prefix: str
    """Path from the root, with a slash at its end."""

    folder: Folder
    label: str
    split: str | None


def split_of(name: str) -> tuple[str, str] | None:
    """Read a split off a name: ("train", "seg") for "seg_train", ("val", "2017") for val2017; else None.

    The second part is what is left of the name: the splits of one data set share it.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    words = [part for word in words for part in _cut_set(word)]
    found = [word for word in words if word in _SPLIT_OF]
    if not found or len({_SPLIT_OF[word] for word in found}) > 1 or _WORD.sub("", name).strip("_-. "):
        return None
    rest = " ".join(word for word in words if word not in _SPLIT_OF and word not in _FILLERS)
    return _SPLIT_OF[found[0]], rest


def _cut_set(word: str) -> tuple[str, ...]:
    """Take "trainset" as "train" and "set"."""
    stem = word.removesuffix("set")
    return (stem, "set") if stem != word and stem in _SPLIT_OF else (word,)


def read_layout(root: Folder, source: str) -> tuple[list[LayoutRow], list[Note]]:
    """Read the class and the split of every image off the folders that it lies in.

    `CLASS/image`, `SPLIT/CLASS/image` and `CLASS/SPLIT/image` are understood; a class owns all below it.

    Raises:
        ValueError: there are no class folders, or they look like splits but their names do not say which.
    """
    notes: list[Note] = []
    classes = _find_classes(root, source, notes)
    rows = [
        LayoutRow(one.prefix + name, one.label, one.split, name)
        for one in classes
        for name in one.folder.walk()
    ]
    notes += _describe_rest(root, classes)
    return rows, notes


def _find_classes(root: Folder, source: str, notes: list[Note]) -> list[_Class]:
    splits = _find_splits(root, notes)
    if splits:
        return [
            one
            for name, split in splits.items()
            for one in _classes_of_split(root, name, split, source, notes)
        ]
    _refuse_unnamed_splits(root, source)
    classes = []
    for folder in root.full:
        below = {one.name: split_of(one.name) for one in folder.full}
        if below and all(below.values()) and not folder.images and _all_have_train(root):
            classes += [
                _Class(f"{folder.name}/{one.name}/", one, folder.name, (split_of(one.name) or ("", ""))[0])
                for one in folder.full
            ]
        else:
            classes.append(_Class(f"{folder.name}/", folder, folder.name, None))
    if any(one.split for one in classes):
        notes.append(Note("split", "the folders below each class are its splits"))
    return classes


def _all_have_train(root: Folder) -> bool:
    """True if every class folder holds a folder for training."""
    return all(any((split_of(one.name) or ("", ""))[0] == "train" for one in top.full) for top in root.full)


def _find_splits(root: Folder, notes: list[Note]) -> dict[str, str]:
    """Folder name -> split, for the folders below the root that are splits; {} if there are none.

    A class may be called "train" (vehicles). So folders are splits if all of them have names of splits, train
    among them, or if two or more have, and classes repeat below them; numbers apart, what is left of their
    names has to be the same ("seg_train", "seg_test").
    """
    read = {folder.name: split_of(folder.name) for folder in root.full}
    named = {name: found[0] for name, found in read.items() if found}
    if "train" not in named.values():
        return {}
    is_named_alike = len({re.sub(r"[\d ]", "", found[1]) for found in read.values() if found}) == 1
    is_complete = len(named) == len(read) and (len(named) == 1 or len(set(named.values())) > 1)
    if is_named_alike and (is_complete or _classes_repeat(root, named)):
        return named
    _warn_of_lone_split(root, named, notes)
    return {}


def _classes_repeat(root: Folder, named: dict[str, str]) -> bool:
    """True if a class of the training split is one of another split, too."""
    by_split: dict[str, set[str]] = defaultdict(set)
    for folder in root.full:
        if folder.name in named:
            by_split[named[folder.name]] |= {spell_class(one.name) for one in _unwrap(folder)[1].full}
    train = by_split.pop("train")
    return any(train & classes for classes in by_split.values())


def _warn_of_lone_split(root: Folder, named: dict[str, str], notes: list[Note]) -> None:
    for name in named:
        folder = root.find(name)
        if folder and not folder.images and len(folder.full) > 1:
            below = list_names([one.name for one in folder.full])
            notes.append(
                Note(
                    "split",
                    f"{name!r} is a class here; if it is a split of the classes {below}, pass that folder",
                )
            )


def _unwrap(folder: Folder, prefix: str = "") -> tuple[str, Folder]:
    """Go down while a folder holds nothing but one folder of folders: seg_train/seg_train/CLASS."""
    while len(folder.full) == 1 and not folder.images and len(folder.full[0].full) > 1:
        folder = folder.full[0]
        prefix += f"{folder.name}/"
    return prefix, folder


def _classes_of_split(root: Folder, name: str, split: str, source: str, notes: list[Note]) -> list[_Class]:
    top = root.find(name)
    assert top is not None
    prefix, folder = _unwrap(top, f"{name}/")
    if split == "train" and not folder.full:
        raise ValueError(
            f"{source}: {name} holds its {plural(len(folder.images), 'image')} directly; expected"
            f" {name}/CLASS/image.jpg, or a CSV with the columns path,label"
        )
    if folder.images:
        notes.append(_stray(folder, prefix.rstrip("/")))
    return [_Class(f"{prefix}{one.name}/", one, one.name, split) for one in folder.full]


def _stray(folder: Folder, where: str) -> Note:
    number = len(folder.images)
    return Note("left out", f"{plural(number, 'image')} outside a class folder, in {where}", number)


def _refuse_unnamed_splits(root: Folder, source: str) -> None:
    """Refuse folders that all hold the same folders with images: they look like splits, or several sets."""
    tops = root.full
    below = [frozenset(spell_class(one.name) for one in top.full) for top in tops]
    if len(tops) < 2 or len(set(below)) > 1 or len(below[0]) < 2 or any(top.images for top in tops):
        return
    if all(split_of(name) for name in below[0]):
        return  # CLASS/SPLIT/image
    raise ValueError(
        f"{source}: these look like splits: {list_names([top.name for top in tops])}, since each holds"
        f" the folders {list_names(sorted(below[0]))}; call them train, val and test, or list the images"
        " in a CSV with the columns path,label,split"
    )


def _describe_rest(root: Folder, classes: Sequence[_Class]) -> Iterator[Note]:
    """Describe what is below the root and belongs to no class, and what of a class is no image."""
    if root.images:
        yield _stray(root, "the folder itself")
    tops = {one.prefix.partition("/")[0] for one in classes}
    for folder in root.folders:
        if folder.name not in tops and (folder.num_images or not any(one.split for one in classes)):
            yield _describe_left_folder(folder, folder.name)
    if any(one.split for one in classes):
        for prefix in sorted({one.prefix[: -len(one.folder.name) - 1] for one in classes}):
            for folder in _walk_to(root, prefix).folders:
                if not folder.num_images:
                    yield _describe_left_folder(folder, prefix + folder.name)
    others: Counter[str] = Counter()
    for one in classes:
        others += one.folder.count_others()
    loud = Counter({suffix: number for suffix, number in others.items() if suffix not in _QUIET})
    if loud:
        yield Note(
            "left out", f"files in class folders that are not read: {describe_counts(loud)}", loud.total()
        )
    quiet = others - loud
    if quiet:
        yield Note("other files", f"beside the images: {describe_counts(quiet)}", quiet.total())
    odd = [f"{path} ({what})" for path, what in root.walk_odd()]
    if odd:
        yield Note("left out", f"no files: {list_names(odd)}", len(odd))
    if root.own:
        yield Note("left out", f"written by this program: {list_names(root.own)}")


def _walk_to(root: Folder, prefix: str) -> Folder:
    for name in prefix.strip("/").split("/") if prefix else ():
        root = root.find(name) or root
    return root


def _describe_left_folder(folder: Folder, path: str) -> Note:
    if folder.num_images:
        number = folder.num_images
        return Note("left out", f"{path}, which is no split, with {plural(number, 'image')}", number)
    others = folder.count_others()
    if not others:
        return Note("left out", f"{path}, which is empty")
    return Note(
        "left out", f"{path}, without an image that can be read: {describe_counts(others)}", others.total()
    )


def explain_nothing(root: Folder, source: str) -> str:
    """Say in one line why a source gives no class folder with images, and what to pass instead."""
    expected = f"expected {source}/CLASS/image.jpg (jpg, png, webp, …)"
    tables = [name for name in root.others if name in TABLES]
    if root.images:
        hint = "pass the folder above if this is one class of several"
        if tables:
            hint = "if a table names their classes, pass that file"
        return (
            f"{source} holds no images in class folders but {len(root.images)} directly; {expected}; {hint}"
        )
    archives = Counter({suffix: number for suffix, number in root.others.items() if suffix in ARCHIVES})
    if archives:
        found = describe_counts(archives)
        return f"{source} holds no images in class folders but archives ({found}): unpack them first"
    others = root.count_others()
    found = f"; found only {describe_counts(others)}" if others else ""
    return f"{source} holds no images in class folders; {expected}{found}"


def explain_one_class(root: Folder, source: str) -> str:
    """Say which folder to pass where the class folders lie deeper; empty if they do not."""
    prefix, folder = "", root
    while len(folder.full) == 1 and not folder.images:
        folder = folder.full[0]
        prefix += f"/{folder.name}"
    if len(folder.full) < 2 or not prefix:
        return ""
    classes = list_names([one.name for one in folder.full])
    return (
        f"{source} holds one folder only, so that all images would be of one class; its class folders"
        f" seem to be {classes}: pass {source}{prefix}"
    )
