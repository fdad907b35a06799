"""Recipes of published configurations: their common settings, and which of them a study can run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from search_spaces._contract import Recipe

FLOWERS102 = "reference recipes A (docs/systems.md): 102 flowers, 10 training images a class"
PLANTS = "reference recipes B (docs/systems.md): eight plant species, 3,542 images of 96 x 96, imbalanced"
IMAGENETTE = "reference recipes C (docs/systems.md): Imagenette, 10 classes, 9,469 training images"
SCENES = "reference recipes D (docs/systems.md): 15 scenes, 360 training images a class"
FLOWERS5 = "reference recipes E (docs/systems.md): five flowers, 3,670 images"

ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
"""Adam at its customary rate, which holds wherever a source names no other."""

SOFTMAX = {"head_width": 0, "dropout": 0.0}
"""Global average pooling and one dense softmax."""


def probe(**changes: Any) -> dict[str, Any]:
    """Make a new head on the frozen backbone: Adam, batch 32, nothing augmented."""
    shared = {"regime": "linear_probe", "batch_size": 32, "policy": "none", "early_stopping_patience": 0}
    return {**ADAM, **SOFTMAX, **shared, **changes}


def unfrozen(**changes: Any) -> dict[str, Any]:
    """Train the whole pretrained network, at a rate low enough to keep what it has learned."""
    return probe(**{"regime": "finetune", "unfreeze_depth": "all", "learning_rate": 1e-4, **changes})


def from_scratch(**changes: Any) -> dict[str, Any]:
    """Train the whole network from random weights."""
    return probe(**{"regime": "scratch", **changes})


def two_phases(*, share: float, max_epochs: int, **changes: Any) -> dict[str, Any]:
    """Train the head alone for this share of the epochs, then everything at a hundredth of the rate: 1e-5."""
    phases = {
        "regime": "two_phase",
        "unfreeze_depth": "all",
        "frozen_epochs": max(1, min(round(share * max_epochs), max_epochs - 1)),
        "second_phase_learning_rate_factor": 0.01,
    }
    return probe(**{**phases, **changes})


def fit_study(recipes: Iterable[Recipe], *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    """Choose the recipes that a study can run.

    Two phases need two epochs. A recipe on a backbone that the user has replaced moves to the user's first
    one, as long as it names no module of its own; it then is no published system any more.
    """
    fitting: list[Recipe] = []
    for recipe in recipes:
        if recipe.config.get("regime") in ("two_phase", "gradual") and max_epochs < 2:
            continue
        if recipe.config["backbone"] not in backbones:
            if ":" in str(recipe.config.get("unfreeze_depth", "")):
                continue
            config = {**recipe.config, "backbone": backbones[0]}
            recipe = replace(recipe, config=config, name=f"{recipe.name}, on {backbones[0]}", systems=())
        if all(recipe.config != known.config for known in fitting):
            fitting.append(recipe)
    return fitting
