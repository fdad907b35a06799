"""Small enough for a laptop without a GPU: EfficientNet-Lite0, whose weights come with the installation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe, widths_of_rates

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("lite0",)
DEFAULTS = Defaults(trials=8, max_epochs=4, image_size=128)
RATES = (3e-4, 1e-2)
WIDTHS = widths_of_rates(*RATES)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    trial.suggest_categorical("backbone", backbones)
    trial.suggest_categorical("unfreeze_depth", (0, 1, 2, 3, 4))
    trial.suggest_categorical("batch_size", (16, 32, 64))
    trial.suggest_float("learning_rate", *RATES, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_categorical("head_width", (0, 128, 512))
    trial.suggest_categorical("policy", ("none", "light"))
    return {"regime": "finetune", "optimizer": "adamw", "weight_decay": 1e-4, "schedule": "cosine"}


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    shared = {"backbone": backbones[0], "dropout": 0.2, "head_width": 0, "policy": "none"}
    probe = {**shared, "unfreeze_depth": 0, "batch_size": 32, "learning_rate": 3e-3}
    tune = {**shared, "unfreeze_depth": 4, "batch_size": 32, "learning_rate": 1.5e-3}
    return [
        Recipe(name="linear head", source="Kornblith et al. 2019, arXiv:1805.08974", config=probe),
        Recipe(name="top stages", source="Kornblith et al. 2019, arXiv:1805.08974", config=tune),
    ]
