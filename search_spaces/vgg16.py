"""VGG16 with and without its last pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5, PLANTS, SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("vgg16", "vgg16_no_last_pool")
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        widths=(0, 256, "100-50"),
        poolings=("average", "flatten"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    def plants(backbone: str) -> dict[str, Any]:
        head: dict[str, Any] = {
            "backbone": backbone,
            "head_pooling": "average",
            "early_stopping_patience": 10,
        }
        return two_phases(share=0.2, max_epochs=max_epochs, **head, batch_size=64)

    dense = {"backbone": "vgg16", "dropout": 0.5, "head_l2": 0.0}
    scenes = probe(head_pooling="flatten", head_width=256, head_batch_norm=True, **dense)
    two_dense = probe(head_pooling="average", head_width="100-50", head_batch_norm=False, **dense)
    flowers = two_dense | {"early_stopping_patience": 5}
    rows = (
        ("VGG16 in two phases", ("B3", "B6"), f"{PLANTS}; close to ResNet50", 120, plants("vgg16")),
        ("VGG16 without its last pooling", ("B6",), PLANTS, 120, plants("vgg16_no_last_pool")),
        ("VGG16, dense 256 on all positions", ("D5",), f"{SCENES}; poor", 20, scenes),
        ("VGG16, dense 100 and 50", ("E5",), f"{FLOWERS5}; test 0.8972", 30, flowers),
    )
    recipes = [
        Recipe(name=name, systems=systems, source=source, epochs=epochs, config=config)
        for name, systems, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
