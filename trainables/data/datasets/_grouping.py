"""Groups by --group-by: images that belong together by folder or by a pattern in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from trainables.data.datasets._listing import ImageListing

BY_FOLDER = ("folder", "parent")


def group_images(listing: ImageListing, group_by: str | None) -> ImageListing:
    """Give every image its group by --group-by; without it the listing keeps the groups that it has.

    "folder" takes the folders between class folder and image: those of the same name are one group, also in
    two classes. Anything else is a regular expression that is searched in the image's path below its class
    folder; the first pair of brackets, else the whole match, is the group.

    Raises:
        ValueError: no regular expression, or one that fits no image; no folders between class and image.
    """
    if group_by is None:
        return listing
    if group_by in BY_FOLDER:
        groups = [_folder_of(name) for name in listing.names]
        if not any(groups):
            raise ValueError(
                "--group-by folder: the images lie in their class folders directly; expected"
                " CLASS/GROUP/image"
            )
    else:
        groups = _match(group_by, listing.names)
    return replace(listing, groups=tuple(groups))


def _folder_of(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _match(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--group-by {pattern!r} is neither `folder`, nor a column of the table, nor a regular"
            f" expression ({error})"
        ) from error
    found = [compiled.search(name) for name in names]
    groups = [(match[1] if compiled.groups else match[0]) or "" if match else "" for match in found]
    if not any(groups):
        raise ValueError(
            f"--group-by {pattern!r} fits none of the images, {names[0]!r} for one; expected `folder`, a"
            " column of the table, or a regular expression such as '(patient[0-9]+)'"
        )
    return groups
