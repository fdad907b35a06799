"""EfficientNet-B3, trained from one of its seven blocks upward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, unfrozen
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS102

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("efficientnet_b3",)
DEFAULTS = Defaults(trials=24, max_epochs=20, image_size=288)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        depths=(1, 2, 3, "from:blocks.5", "from:blocks.4", "from:blocks.3", "all"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    # Blocks count from 0 here: blocks.4 is the 5th of the 7.
    config = unfrozen(backbone="efficientnet_b3", unfreeze_depth="from:blocks.4", policy="medium")
    recipe = Recipe(
        name="EfficientNet-B3, from the 5th block upward",
        systems=("A10",),
        source=f"{FLOWERS102}; accuracy 0.9083",
        epochs=20,
        config=config,
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
