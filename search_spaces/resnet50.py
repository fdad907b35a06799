"""ResNet50: from nearest neighbours on its features to training it from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch, probe, two_phases, unfrozen
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5, FLOWERS102, PLANTS

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50",)
DEFAULTS = Defaults(trials=32, max_epochs=20, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        widths=(0, 256, "100-50", "512-128"),
        policies=("none", "flip", "light", "medium", "strong", "flowers_e7"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    name = {"backbone": "resnet50"}
    neighbours = {"regime": "knn", "num_neighbours": 5, "distance": "euclidean", **name}
    plants = two_phases(
        share=25 / 145, max_epochs=max_epochs, batch_size=64, early_stopping_patience=10, **name
    )
    two_dense = probe(head_width="100-50", head_batch_norm=False, dropout=0.5, **name)
    dense = two_dense | {"head_l2": 0.0, "early_stopping_patience": 5}
    augmented = dense | {"head_width": "512-128", "head_l2": 0.01, "policy": "flowers_e7"}
    rows = (
        ("features and 5 neighbours", "A1", f"{FLOWERS102}; accuracy 0.6098", None, neighbours),
        ("new softmax", "A2", f"{FLOWERS102}; accuracy 0.8009", 20, probe(**name)),
        ("new softmax, augmented", "A3", f"{FLOWERS102}; 0.8343", 20, probe(policy="medium", **name)),
        ("unfrozen, augmented", "A4", FLOWERS102, 20, unfrozen(policy="medium", **name)),
        ("from scratch", "A5", FLOWERS102, 30, from_scratch(**name)),
        ("two phases", "B4", f"{PLANTS}; test 0.868", 145, plants),
        ("dense 100 and 50", "E6", f"{FLOWERS5}; test 0.9306", 30, dense),
        ("dense 512 and 128, augmented", "E7", f"{FLOWERS5}; test 0.9306", 30, augmented),
    )
    recipes = [
        Recipe(name=f"ResNet50, {what}", systems=(system,), source=source, epochs=epochs, config=config)
        for what, system, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
