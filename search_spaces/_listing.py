"""Every published system with the spaces and recipes that run it, as plain values."""

from __future__ import annotations

from typing import Any

from optuna.trial import FixedTrial

from search_spaces._catalogue import load_space, names
from search_spaces._contract import DataFacts
from search_spaces._systems import SYSTEMS

_FACTS = DataFacts(num_train=1_020, num_classes=102, median_pixels=500 * 600)
"""Those of the 102 flowers; only BiT's space asks."""


def list_systems(max_epochs: int | None = None) -> list[dict[str, Any]]:
    """One entry for each (system, space, recipe), in the order of the reports.

    Args:
        max_epochs: budget that the configurations are made for; None = each space's own.
    """
    order = {system: position for position, system in enumerate(SYSTEMS)}
    rows = [row for name in names() for row in _rows(name, max_epochs)]
    return sorted(rows, key=lambda row: (order[row["id"]], row["space"] == "all"))


def _rows(name: str, max_epochs: int | None) -> list[dict[str, Any]]:
    space = load_space(name)
    budget = max_epochs or space.max_epochs(_FACTS)
    rows = []
    for recipe in space.recipes(_FACTS, backbones=space.backbones, max_epochs=budget):
        trial: Any = FixedTrial(recipe.config)
        facts = {
            "space": name,
            "recipe": recipe.name,
            "source": recipe.source,
            "epochs": recipe.epochs,
            # As the search does it: a recipe's values replace those of the space.
            "config": {**space.propose(trial, backbones=space.backbones, max_epochs=budget), **recipe.config},
        }
        rows += [{"id": system, "system": SYSTEMS[system], **facts} for system in recipe.systems]
    return rows
