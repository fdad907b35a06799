"""Suggestions that many search spaces share: regime and depth, optimizer and schedule, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import widths_of_rates

if TYPE_CHECKING:
    from optuna import Trial

REGIMES = ("finetune", "linear_probe", "two_phase", "gradual", "knn", "scratch")
POLICIES = ("none", "flip", "light", "medium", "strong")
DEPTHS: tuple[int | str, ...] = (1, 2, 3, "all")

RATES = (1e-5, 1e-1)
CLASSIFIER_WIDTHS = widths_of_rates(*RATES)
"""Widths of the steps in spaces that suggest a whole classifier."""

_NEED_TWO_EPOCHS = ("two_phase", "gradual")
_HYPERRULE = {"optimizer": "sgd", "momentum": 0.9, "schedule": "hyperrule", "zero_init_head": True}


def suggest_classifier(
    trial: Trial,
    *,
    backbones: Sequence[str],
    max_epochs: int,
    regimes: Sequence[str] = REGIMES,
    depths: Sequence[int | str] = DEPTHS,
    batch_sizes: Sequence[int] = (16, 32, 64, 128),
    optimizers: Sequence[str] = ("adam", "adamw", "sgd"),
    widths: Sequence[int | str] = (0, 128, 256, 512),
    poolings: Sequence[str] = ("average",),
    policies: Sequence[str] = POLICIES,
) -> dict[str, Any]:
    """Suggest everything that makes a fine-tuned classifier; return the values that the regime fixes."""
    trial.suggest_categorical("backbone", backbones)
    fixed = suggest_regime(trial, regimes=regimes, depths=depths, max_epochs=max_epochs)
    if trial.params["regime"] == "knn":
        return fixed | suggest_neighbours(trial)
    trial.suggest_categorical("batch_size", batch_sizes)
    trial.suggest_float("learning_rate", *RATES, log=True)
    if trial.params["regime"] != "bit":
        suggest_optimizer(trial, optimizers=optimizers)
    suggest_head(trial, widths=widths, poolings=poolings)
    trial.suggest_categorical("policy", policies)
    trial.suggest_categorical("early_stopping_patience", (0, 5, 10))
    return fixed


def suggest_regime(
    trial: Trial, *, regimes: Sequence[str], depths: Sequence[int | str], max_epochs: int
) -> dict[str, Any]:
    """Suggest regime and depth. A budget of one epoch has no room for a second phase."""
    offered = [name for name in regimes if max_epochs > 1 or name not in _NEED_TWO_EPOCHS]
    regime = trial.suggest_categorical("regime", offered)
    if regime in ("linear_probe", "knn"):
        return {"unfreeze_depth": 0}
    if regime == "scratch":
        return {"unfreeze_depth": "all"}
    trial.suggest_categorical("unfreeze_depth", depths)
    if regime == "two_phase":
        trial.suggest_int("frozen_epochs", 1, max_epochs - 1)
        trial.suggest_float("second_phase_learning_rate_factor", 1e-3, 1.0, log=True)
    if regime == "gradual":
        trial.suggest_int("gradual_epochs", 1, max(1, max_epochs // 4))
    return dict(_HYPERRULE) if regime == "bit" else {}


def suggest_neighbours(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of nearest neighbours: they train nothing and augment nothing."""
    trial.suggest_int("num_neighbours", 1, 50, log=True)
    trial.suggest_categorical("distance", ("cosine", "euclidean"))
    return {}


def suggest_optimizer(trial: Trial, *, optimizers: Sequence[str]) -> None:
    if trial.suggest_categorical("optimizer", optimizers) in ("sgd", "rmsprop"):
        trial.suggest_float("momentum", 0.0, 0.99)
    trial.suggest_categorical("weight_decay", (0.0, 1e-4, 2e-3, 1e-2))
    trial.suggest_categorical("schedule", ("constant", "cosine", "exponential", "plateau"))


def suggest_head(trial: Trial, *, widths: Sequence[int | str], poolings: Sequence[str]) -> None:
    """Suggest a head: linear (width 0), or dense layers as wide as a text such as "512-128" says."""
    if len(poolings) > 1:
        trial.suggest_categorical("head_pooling", poolings)
    if trial.suggest_categorical("head_width", widths) != 0:
        trial.suggest_categorical("head_batch_norm", (False, True))
        trial.suggest_categorical("head_l2", (0.0, 1e-3, 1e-2))
    trial.suggest_float("dropout", 0.0, 0.7)


def suggest_balance(trial: Trial) -> None:
    """Suggest a remedy for classes with few images."""
    if trial.suggest_categorical("sampler", ("shuffle", "balanced")) == "balanced":
        return
    if trial.suggest_categorical("minority_policy", ("", "medium", "strong")) == "":
        trial.suggest_categorical("class_weights", ("none", "balanced", "effective"))


def suggest_mixing(trial: Trial) -> None:
    """Suggest MixUp or CutMix in a few settings: with continuous ones no two trials would share views."""
    mix = trial.suggest_categorical("mix", ("none", "mixup", "cutmix"))
    if mix == "none":
        return
    trial.suggest_categorical("mix_share", (0.25, 0.5, 1.0))
    if mix == "mixup":
        trial.suggest_categorical("mix_alpha", (0.2, 1.0))
        return
    trial.suggest_categorical("cutmix_min", (0.0, 0.1))
    trial.suggest_categorical("cutmix_max", (0.5, 1.0))
