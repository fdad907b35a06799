"""Ten easy classes from scratch: modified MobileNetV2, ResNets, GoogLeNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import IMAGENETTE

if TYPE_CHECKING:
    from optuna import Trial

MISH = ("mobilenet_v2_mish", "mobilenet_v2_mish_dropout", "mobilenet_v2_mish_blur")
BACKBONES = (*MISH, "resnet34", "resnet50", "resnet50d", "googlenet")
DEFAULTS = Defaults(trials=48, max_epochs=30, image_size=160)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=("finetune", "scratch"),
        policies=("none", "flip", "imagenette", "medium"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    rows = (
        ("MobileNetV2 with Mish and repeated passes", "C1", "0.90", {"backbone": MISH[0]}),
        ("the same with dropout", "C2", "slower, no gain", {"backbone": MISH[1], "dropout": 0.2}),
        ("the same with blurred max pooling", "C3", "lower", {"backbone": MISH[2]}),
        ("ResNet34", "C4", "from scratch", {"backbone": "resnet34"}),
        ("ResNet50", "C4", "0.87", {"backbone": "resnet50"}),
        ("ResNet50-D", "C4", "from scratch", {"backbone": "resnet50d"}),
        ("GoogLeNet", "C4", "from scratch", {"backbone": "googlenet"}),
        ("ResNet50 with dropout", "C5", "from scratch", {"backbone": "resnet50", "dropout": 0.5}),
    )
    shared = {"policy": "imagenette", "schedule": "cosine"}
    recipes = [
        Recipe(
            name=name,
            systems=(system,),
            source=f"{IMAGENETTE}; {found}",
            config=from_scratch(**{**shared, **changes}),
        )
        for name, system, found, changes in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
