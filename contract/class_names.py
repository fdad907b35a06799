"""The order of class names, by which every list of classes is sorted."""

from __future__ import annotations

from collections.abc import Iterable


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort whole numbers by value ("2" before "10"), everything else by code point."""
    found = set(names)
    if all(name.isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))
