"""ResNeXt101 (32 x 8d): a new softmax, the whole network, or training from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch, probe, unfrozen
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS102

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnext101",)
DEFAULTS = Defaults(trials=24, max_epochs=20, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(trial, backbones=backbones, max_epochs=max_epochs)


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    name = {"backbone": "resnext101"}
    best = f"{FLOWERS102}; the best of its four has 0.8787"
    rows = (
        ("new softmax", "A6", 20, probe(**name)),
        ("new softmax, augmented", "A7", 20, probe(policy="medium", **name)),
        ("unfrozen, augmented", "A8", 20, unfrozen(policy="medium", **name)),
        ("from scratch", "A9", 30, from_scratch(**name)),
    )
    recipes = [
        Recipe(name=f"ResNeXt101, {what}", systems=(system,), source=best, epochs=epochs, config=config)
        for what, system, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
