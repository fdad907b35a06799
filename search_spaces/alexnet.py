"""AlexNet up to its first dense layer, with a new one and a new softmax on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("alexnet",)
DEFAULTS = Defaults(trials=24, max_epochs=30, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(trial, backbones=backbones, max_epochs=max_epochs, widths=(0, 256, 2048))


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    config = probe(
        backbone="alexnet",
        head_width=2048,
        head_batch_norm=False,
        head_l2=0.0,
        dropout=0.0,
    )
    recipe = Recipe(
        name="AlexNet, last two dense layers replaced",
        systems=("E3",),
        source=f"{FLOWERS5}; test 0.8972",
        epochs=30,
        config=config | {"early_stopping_patience": 5},
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
