"""Big Transfer: the BiT ResNet-v2 family around BiT-HyperRule (Kolesnikov et al. 2020, arXiv:1912.11370)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe, widths_of_rates

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("bit_r50x1", "bit_r101x1", "bit_r50x3")
DEFAULTS = Defaults(trials=16)
RATES = (1e-4, 3e-2)
WIDTHS = widths_of_rates(*RATES)


def image_size(facts: DataFacts) -> int:
    """Return 128 for originals below 96 x 96 pixels, else 480 (big_transfer/bit_hyperrule.py)."""
    return 128 if facts.median_pixels < 96 * 96 else 480


def max_epochs(facts: DataFacts) -> int:
    """Return the epochs that hold HyperRule's updates of 512 images; trials with smaller batches end sooner.

    A smaller `--max-epochs` shortens the schedule in proportion: warm-up and decays keep their shares.
    """
    updates = 500 if facts.num_train < 20_000 else 10_000 if facts.num_train < 500_000 else 20_000
    return math.ceil(updates / math.ceil(facts.num_train / 512))


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    trial.suggest_categorical("backbone", backbones)
    trial.suggest_categorical("unfreeze_depth", (0, 1, 2, "all"))
    trial.suggest_categorical("batch_size", (32, 64, 128, 512))
    trial.suggest_float("learning_rate", *RATES, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_categorical("head_width", (0, 256))
    trial.suggest_categorical("policy", ("none", "bit", "medium"))
    trial.suggest_categorical("mixup_alpha", (0.0, 0.1))
    return {
        "regime": "bit",
        "optimizer": "sgd",
        "momentum": 0.9,
        "schedule": "hyperrule",
        "micro_batch_size": 32,
        "zero_init_head": True,
    }


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    hyperrule = {
        "unfreeze_depth": "all",
        "batch_size": 512,
        "learning_rate": 0.003,
        "dropout": 0.0,
        "head_width": 0,
        "policy": "bit",
        "mixup_alpha": 0.0 if facts.num_train < 20_000 else 0.1,
    }
    source = "google-research/big_transfer, bit_hyperrule.py"
    config = {**hyperrule, "backbone": backbones[0]}
    systems = ("A11",) if backbones[0].startswith("bit_") else ()
    return [Recipe(name=f"BiT-HyperRule, {backbones[0]}", systems=systems, source=source, config=config)]
