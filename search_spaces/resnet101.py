"""ResNet101, first and second version, with one dense layer and batch norm as its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet101", "resnet101v2")
DEFAULTS = Defaults(trials=24, max_epochs=50, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        poolings=("average", "flatten"),
        policies=("none", "flip", "light", "medium", "scenes_d9"),
    )
    trial.suggest_categorical("steps_per_epoch", (0, 50))
    return fixed


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    head = {"head_pooling": "flatten", "head_width": 256, "head_batch_norm": True, "head_l2": 0.0}
    shared = {**head, "dropout": 0.5, "steps_per_epoch": 50}
    tuned = two_phases(share=20 / 50, max_epochs=max_epochs, backbone="resnet101", **shared)
    rows = (
        ("ResNet101, dense 256", "D1", f"{SCENES}; test 0.5475", 20, probe(backbone="resnet101", **shared)),
        ("ResNet101, then unfrozen", "D2", f"{SCENES}; test 0.9222", 50, tuned),
        ("ResNet101V2, dense 256", "D5", f"{SCENES}; good", 20, probe(backbone="resnet101v2", **shared)),
    )
    recipes = [
        Recipe(name=name, systems=(system,), source=source, epochs=epochs, config=config)
        for name, system, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
