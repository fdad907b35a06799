"""A folder of images on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from contract.files import printable
from contract.image_names import is_hidden
from trainables.data.datasets._layout import explain_nothing, explain_one_class, read_layout, split_of
from trainables.data.datasets._listing import ImageListing, ListedImage, Note, list_names, make_listing
from trainables.data.datasets._tree import scan_folder


def list_folder(folder: Path, *, own: Sequence[Path] = ()) -> ImageListing:
    """List the images below a folder: CLASS/image, SPLIT/CLASS/image or CLASS/SPLIT/image.

    Args:
        own: folders of this program, which are left out where they lie below `folder`.

    Raises:
        ValueError: the folder cannot be read, holds no images in class folders, or only one class.
    """
    root = folder.absolute()
    try:
        tree = scan_folder(root, own=own)
    except OSError as error:
        raise ValueError(
            f"cannot read {error.filename or root}: {error.strerror}; check its permissions"
        ) from error
    if not tree.full:
        raise ValueError(explain_nothing(tree, printable(root)))
    if deeper := explain_one_class(tree, printable(root)):
        raise ValueError(deeper)
    found, notes = read_layout(tree, printable(root))
    if not found:
        raise ValueError(explain_nothing(tree, printable(root)))
    rows = [ListedImage(Path(root, row.path), row.label, row.split, row.name) for row in found]
    return make_listing(str(root), rows, [*notes, *_note_siblings(root)])


def _note_siblings(root: Path) -> list[Note]:
    """Note that the folder is one split of several: photos/train while photos/val exists."""
    own = split_of(root.name)
    if not own:
        return []
    try:
        with os.scandir(root.parent) as entries:
            names = sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())
    except OSError:
        return []
    beside = [
        name for name in names if (other := split_of(name)) and other[0] != own[0] and other[1] == own[1]
    ]
    if not beside:
        return []
    text = f"{list_names(beside)} beside it are not used; pass {printable(root.parent)} to use all splits"
    return [Note("split", text)]
