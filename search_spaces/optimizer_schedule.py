"""Which optimizer, which momentum, which schedule: the two studies of it that were published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import ADAM, fit_study, from_scratch, probe
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import IMAGENETTE, SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50", "resnet101")
DEFAULTS = Defaults(trials=40, max_epochs=30, image_size=224)
RMSPROP = {"optimizer": "rmsprop", "momentum": 0.0}


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        optimizers=("adam", "adamw", "sgd", "rmsprop"),
        policies=("none", "flip", "light", "medium", "imagenette"),
        poolings=("average", "flatten"),
    )


def sgd(momentum: float) -> dict[str, Any]:
    return {"optimizer": "sgd", "momentum": momentum, "learning_rate": 1e-2}


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    scratch = from_scratch(backbone="resnet50", head_pooling="average", policy="imagenette")
    dense = {"head_width": 256, "head_batch_norm": True, "head_l2": 0.0, "dropout": 0.5}
    scenes = probe(backbone="resnet101", head_pooling="flatten", **dense)
    adam, cosine = f"{IMAGENETTE}; Adam is much faster", {"schedule": "cosine"}
    rows = (
        ("Adam from scratch", ("C6", "C7"), f"{adam}; cosine 0.87", scratch | cosine),
        ("SGD from scratch", ("C6",), adam, scratch | cosine | sgd(0.9)),
        ("constant rate 0.001", ("C7",), f"{IMAGENETTE}; barely 0.80", scratch | {"schedule": "constant"}),
        ("exponential schedule", ("C7",), IMAGENETTE, scratch | {"schedule": "exponential"}),
        ("dense head, Adam", ("D7",), f"{SCENES}; all alike", scenes | ADAM),
        ("dense head, SGD", ("D7",), f"{SCENES}; all alike", scenes | sgd(0.0)),
        ("dense head, SGD, momentum 0.5", ("D7",), f"{SCENES}; all alike", scenes | sgd(0.5)),
        ("dense head, SGD, momentum 0.9", ("D7",), f"{SCENES}; all alike", scenes | sgd(0.9)),
        ("dense head, RMSprop", ("D7",), f"{SCENES}; all alike", scenes | RMSPROP),
    )
    recipes = [
        Recipe(name=name, systems=systems, source=source, config=config)
        for name, systems, source, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
