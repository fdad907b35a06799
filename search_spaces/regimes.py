"""Every regime on every backbone whose weights come with the installation: which way of training pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._recipes import fit_study
from search_spaces._suggestions import CLASSIFIER_WIDTHS, REGIMES, suggest_classifier

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("lite0", "lite1", "lite2")
DEFAULTS = Defaults(trials=21, max_epochs=4, image_size=128)
WIDTHS = CLASSIFIER_WIDTHS

RAZAVIAN = "Razavian et al. 2014, arXiv:1403.6382"
KORNBLITH = "Kornblith et al. 2019, arXiv:1805.08974"
HOWARD = "Howard and Ruder 2018, arXiv:1801.06146"
KOLESNIKOV = "Kolesnikov et al. 2020, arXiv:1912.11370"


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=(*REGIMES, "bit"),
        depths=(1, 2, 3, 4, "all"),
        optimizers=("adamw", "adam", "sgd"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    shared = {
        "batch_size": 32,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "head_width": 0,
        "policy": "none",
        "early_stopping_patience": 0,
    }
    trained = {**shared, "optimizer": "adamw", "weight_decay": 1e-4, "schedule": "cosine"}
    linear = {**trained, "regime": "linear_probe", "learning_rate": 3e-3}
    top = {**trained, "unfreeze_depth": 4, "learning_rate": 1.5e-3, "dropout": 0.2}
    phases = {"frozen_epochs": max(1, max_epochs // 3), "second_phase_learning_rate_factor": 0.5}
    rule = {"regime": "bit", "unfreeze_depth": "all", "learning_rate": 3e-3, "policy": "flip"}
    rows = (
        ("nearest neighbours", RAZAVIAN, {"regime": "knn", "num_neighbours": 5, "distance": "cosine"}),
        ("linear head", RAZAVIAN, linear),
        ("top stages", KORNBLITH, top | {"regime": "finetune"}),
        ("head first", HOWARD, top | {"regime": "two_phase", "learning_rate": 3e-3, **phases}),
        ("stage by stage", HOWARD, top | {"regime": "gradual", "gradual_epochs": 1}),
        ("HyperRule", KOLESNIKOV, shared | rule),
        ("from scratch", KORNBLITH, trained | {"regime": "scratch"}),
    )
    recipes = [
        Recipe(name=f"{name}: {what}", source=source, config={"backbone": name, **config})
        for what, source, config in rows
        for name in backbones
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
