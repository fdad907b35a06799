"""Any backbone by name: how deep to unfreeze, in one phase or two, with which head and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe, widths_of_rates

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("lite0", "lite1", "lite2")
DEFAULTS = Defaults(trials=40, max_epochs=20, image_size=224)
RATES = (1e-5, 1e-2)
WIDTHS = widths_of_rates(*RATES)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    trial.suggest_categorical("backbone", backbones)
    depth = trial.suggest_categorical("unfreeze_depth", (0, 1, 2, 3, "all"))
    trial.suggest_categorical("batch_size", (16, 32, 64, 128))
    if trial.suggest_categorical("optimizer", ("adamw", "sgd")) == "sgd":
        trial.suggest_float("momentum", 0.8, 0.99)
    trial.suggest_float("learning_rate", *RATES, log=True)
    trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    trial.suggest_categorical("schedule", ("cosine", "exponential", "plateau"))
    trial.suggest_float("dropout", 0.0, 0.6)
    if trial.suggest_categorical("head_width", (0, 128, 256, 512)) > 0:
        trial.suggest_categorical("head_batch_norm", (False, True))
    trial.suggest_categorical("policy", ("none", "flip", "light", "medium", "strong"))
    if depth == 0:
        return {"regime": "linear_probe", "early_stopping_patience": 5}
    trial.suggest_float("backbone_learning_rate_factor", 0.03, 1.0, log=True)
    regimes = ("finetune", "two_phase") if max_epochs > 1 else ("finetune",)
    if trial.suggest_categorical("regime", regimes) == "two_phase":
        trial.suggest_int("frozen_epochs", 1, min(5, max_epochs - 1))
        trial.suggest_float("second_phase_learning_rate_factor", 0.01, 1.0, log=True)
    return {"early_stopping_patience": 5}


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    shared = {
        "unfreeze_depth": "all",
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "backbone_learning_rate_factor": 0.1,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "dropout": 0.2,
        "head_width": 0,
        "policy": "light",
        "regime": "finetune",
    }
    source = "whole network, low rate: Kornblith et al. 2019, arXiv:1805.08974"
    howard = "head first, then everything at a very low rate: Howard and Ruder 2018, arXiv:1801.06146"
    first = {**shared, "backbone": backbones[0]}
    recipes = [Recipe(name="whole network", source=source, config=first)]
    if max_epochs > 1:
        config = {
            **first,
            "regime": "two_phase",
            "frozen_epochs": min(3, max_epochs - 1),
            "second_phase_learning_rate_factor": 0.01,
        }
        recipes.append(Recipe(name="two phases", source=howard, config=config))
    return recipes
