"""Which augmentation, all else as published: policies by name, one choice among the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5, PLANTS, SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50", "resnet101")
DEFAULTS = Defaults(trials=40, max_epochs=20, image_size=224)
PUBLISHED = ("plants_b9", "scenes_d9", "flowers_e7", "imagenette")
GENERIC = ("none", "flip", "light", "medium", "strong", "colour", "random_resized_crop")
AUTOMATIC = ("randaugment", "trivialaugment", "random_erasing")


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        widths=(0, 256, "512-128"),
        poolings=("average", "flatten"),
        policies=(*GENERIC, *AUTOMATIC, *PUBLISHED),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    plants = two_phases(
        share=25 / 145,
        max_epochs=max_epochs,
        backbone="resnet50",
        head_pooling="average",
        batch_size=64,
        policy="plants_b9",
        early_stopping_patience=10,
    )
    dense = {"head_width": 256, "head_batch_norm": True, "head_l2": 0.0, "dropout": 0.5}
    scenes = probe(backbone="resnet101", head_pooling="flatten", policy="scenes_d9", **dense)
    wide = {"head_width": "512-128", "head_batch_norm": False, "head_l2": 0.01, "dropout": 0.5}
    two_dense = probe(backbone="resnet50", head_pooling="average", policy="flowers_e7", **wide)
    flowers = two_dense | {"early_stopping_patience": 5}
    rows = (
        ("flips and shifts", "B9", f"{PLANTS}; a gain", 145, plants),
        ("shifts and zoom of a tenth", "D9", f"{SCENES}; little gain", 20, scenes),
        ("flips, shifts, zoom, contrast", "E7", f"{FLOWERS5}; test 0.9306", 30, flowers),
    )
    recipes = [
        Recipe(name=name, systems=(system,), source=source, epochs=epochs, config=config)
        for name, system, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
