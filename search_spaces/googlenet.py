"""GoogLeNet, pretrained or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import IMAGENETTE

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("googlenet",)
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial, backbones=backbones, max_epochs=max_epochs, policies=("none", "flip", "imagenette", "medium")
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    recipe = Recipe(
        name="GoogLeNet from scratch",
        systems=("C4",),
        source=IMAGENETTE,
        config=from_scratch(backbone="googlenet", policy="imagenette", schedule="cosine"),
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
