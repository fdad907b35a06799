"""Inception-ResNet-v2: a dense head, then its last layers unfrozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("inception_resnet_v2",)
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=299)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        depths=(1, 2, 3, "layers:60", "layers:120", "all"),
        poolings=("average", "flatten"),
        policies=("none", "flip", "light", "medium", "scenes_d9"),
    )
    trial.suggest_categorical("steps_per_epoch", (0, 50))
    return fixed


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    head = {"head_pooling": "flatten", "head_width": 256, "head_batch_norm": True, "head_l2": 0.0}
    shared = {"backbone": "inception_resnet_v2", **head, "dropout": 0.5, "steps_per_epoch": 50}
    tuned = two_phases(share=20 / 30, max_epochs=max_epochs, unfreeze_depth="layers:60", **shared)
    rows = (
        ("Inception-ResNet-v2, dense 256", "D3", f"{SCENES}; test 0.9283", 20, probe(**shared)),
        ("Inception-ResNet-v2, then the last 60 layers", "D4", f"{SCENES}; test 0.9239", 30, tuned),
    )
    recipes = [
        Recipe(name=name, systems=(system,), source=source, epochs=epochs, config=config)
        for name, system, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
