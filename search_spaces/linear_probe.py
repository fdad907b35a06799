"""The head alone, on any frozen backbone: features are computed once, so trials cost seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe, widths_of_rates

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("lite0", "lite1", "lite2")
DEFAULTS = Defaults(trials=48, max_epochs=10, image_size=128)
RATES = (1e-4, 1e-1)
WIDTHS = widths_of_rates(*RATES)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    trial.suggest_categorical("backbone", backbones)
    trial.suggest_categorical("batch_size", (16, 32, 64, 128, 256))
    trial.suggest_categorical("optimizer", ("adamw", "sgd"))
    # 0.1 is as good as 0.03 for a linear head and for SGD at large batches, and too much for AdamW with a
    # hidden layer; of 816 trials at 0.03 and 0.1 none diverged.
    trial.suggest_float("learning_rate", *RATES, log=True)
    trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    trial.suggest_float("dropout", 0.0, 0.7)
    trial.suggest_categorical("head_width", (0, 128, 256, 512))
    trial.suggest_categorical("head_batch_norm", (False, True))
    trial.suggest_categorical("policy", ("none", "flip", "light"))
    # One choice: the depth stands in every space's table, and a study can be widened to more.
    trial.suggest_categorical("unfreeze_depth", (0,))
    return {"regime": "linear_probe", "schedule": "cosine"}


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    shared = {
        "unfreeze_depth": 0,
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "dropout": 0.0,
        "head_width": 0,
        "head_batch_norm": False,
        "policy": "none",
    }
    source = "one dense softmax on frozen features, Adam, batch 32: Razavian et al. 2014, arXiv:1403.6382"
    return [
        Recipe(name=f"linear head on {name}", source=source, config={**shared, "backbone": name})
        for name in backbones
    ]
