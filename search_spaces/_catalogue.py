"""Finds search spaces by file name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path

from search_spaces._contract import SearchSpace


def names() -> tuple[str, ...]:
    """Every search space: the file names of this folder that do not start with `_`."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def load_space(name: str) -> SearchSpace:
    """Load one space by its file name.

    Raises:
        ValueError: no file of that name; the nearest names are given.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no search space {name!r}{hint} There are: {', '.join(names())}")
    module = importlib.import_module(f"search_spaces.{name}")
    return SearchSpace(
        name=name,
        summary=(module.__doc__ or "").strip().splitlines()[0],
        backbones=tuple(module.BACKBONES),
        defaults=module.DEFAULTS,
        suggest=module.space,
        recipes=module.recipes,
        image_size_rule=getattr(module, "image_size", None),
        max_epochs_rule=getattr(module, "max_epochs", None),
    )
