"""Inception-v3 with two narrow dense layers on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("inception_v3",)
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=299)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(trial, backbones=backbones, max_epochs=max_epochs, widths=(0, 256, "100-50"))


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    config = probe(
        backbone="inception_v3",
        head_width="100-50",
        head_batch_norm=False,
        head_l2=0.0,
        dropout=0.5,
    )
    recipe = Recipe(
        name="Inception-v3, dense 100 and 50",
        systems=("E4",),
        source=f"{FLOWERS5}; test 0.8722",
        epochs=30,
        config=config | {"early_stopping_patience": 5},
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
