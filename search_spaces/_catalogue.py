"""Finds search spaces by name: a file of this folder, or a row of the published families."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from contract.files import did_you_mean
from search_spaces._contract import SearchSpace
from search_spaces._published import FAMILIES, load_family


def names() -> tuple[str, ...]:
    """List all spaces: the files of this folder that do not start with `_`, and the rows of FAMILIES."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return tuple(sorted({module.name for module in found if not module.name.startswith("_")} | set(FAMILIES)))


def load_space(name: str) -> SearchSpace:
    """Load one space by its name.

    Raises:
        ValueError: there is none of that name; the nearest names are given.
    """
    if name not in names():
        hint = did_you_mean(name, names()) or "none has a name like it."
        raise ValueError(f"no search space {name!r}; {hint} There are: {', '.join(names())}")
    if name in FAMILIES:
        return load_family(name)
    module = importlib.import_module(f"search_spaces.{name}")
    return SearchSpace(
        name=name,
        summary=(module.__doc__ or "").strip().splitlines()[0],
        backbones=tuple(module.BACKBONES),
        defaults=module.DEFAULTS,
        suggest=module.space,
        recipes=module.recipes,
        widths=getattr(module, "WIDTHS", {}),
        image_size_rule=getattr(module, "image_size", None),
        max_epochs_rule=getattr(module, "max_epochs", None),
    )
