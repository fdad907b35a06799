"""Three backbones in two phases, whose mean was published: `finalize.py STUDY --rule mean` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._recipes import PLANTS, fit_study, two_phases
from search_spaces._suggestions import CLASSIFIER_WIDTHS, suggest_classifier

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50", "vgg16", "mobilenet_v2")
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=96)
WIDTHS = CLASSIFIER_WIDTHS


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(trial, backbones=backbones, max_epochs=max_epochs)


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    """The members of system B14, each as the report trained it alone."""
    rows = (
        ("ResNet50", ("B4",), "test 0.868", "resnet50", 25 / 145, 145),
        ("VGG16", ("B3",), "close to ResNet50", "vgg16", 0.2, 120),
        ("MobileNet", (), "a member of the mean, which gained 3 points", "mobilenet_v2", 25 / 145, 145),
    )
    recipes = [
        Recipe(
            name=name,
            systems=systems,
            source=f"{PLANTS}; {found}",
            epochs=epochs,
            config=two_phases(
                share=share,
                max_epochs=max_epochs,
                backbone=backbone,
                batch_size=64,
                early_stopping_patience=10,
            ),
        )
        for name, systems, found, backbone, share, epochs in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
