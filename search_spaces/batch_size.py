"""Batch sizes from 4 to 64 on ResNet50 in two phases, with all else equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import PLANTS

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50",)
DEFAULTS = Defaults(trials=16, max_epochs=30, image_size=96)
BATCH_SIZES = (4, 8, 16, 32, 64)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        batch_sizes=BATCH_SIZES,
        regimes=("two_phase", "finetune"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    recipes = [
        Recipe(
            name=f"batch size {size}",
            systems=("B7",),
            source=f"{PLANTS}; small is best on validation, large on test",
            epochs=145,
            config=two_phases(
                share=25 / 145,
                max_epochs=max_epochs,
                backbone="resnet50",
                batch_size=size,
                early_stopping_patience=10,
            ),
        )
        for size in BATCH_SIZES
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
