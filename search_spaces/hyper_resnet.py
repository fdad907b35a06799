"""A ResNet whose depth, version and pooling are searched beside optimizer and rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import PLANTS

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = tuple(
    f"hyper_resnet:{version}:{depth}:{pooling}"
    for version in ("v1", "v2", "next")
    for depth in (26, 50, 101)
    for pooling in ("average", "max")
)
DEFAULTS = Defaults(trials=48, max_epochs=30, image_size=96)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=("finetune", "scratch"),
        optimizers=("adam", "adamw", "sgd", "rmsprop"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    config = from_scratch(backbone="hyper_resnet:v2:50:average", policy="flip")
    recipe = Recipe(
        name="HyperResNet, version 2, 50 layers",
        systems=("B8",),
        source=f"{PLANTS}; no gain, and too slow to explore there",
        config=config,
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
