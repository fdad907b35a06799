"""Small networks of our own, from scratch: what a pretrained backbone is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, from_scratch
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import FLOWERS5, PLANTS

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("handcrafted", "six_conv", "linear_pixels")
DEFAULTS = Defaults(trials=32, max_epochs=30, image_size=96)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=("finetune", "scratch"),
        depths=(0, 1, "all"),
        widths=(0, 64, 128),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    # L2 of 0.001 on a weight adds 0.002 of it to its gradient, which is Adam's decay.
    dense = {"head_width": 64, "head_batch_norm": False, "head_l2": 0.0, "dropout": 0.1}
    flowers = {**dense, "weight_decay": 2e-3, "early_stopping_patience": 5}
    pixels = {"backbone": "linear_pixels"}
    rows = (
        ("linear softmax on pixels", "B1", f"{PLANTS}; about 0.25", pixels),
        (
            "the same on zeros",
            "B2",
            f"{PLANTS}; below 0.25",
            {**pixels, "zero_inputs": True},
        ),
        ("six convolutions", "B5", f"{PLANTS}; validation 0.77", {"backbone": "six_conv"}),
        ("four groups", "E1", f"{FLOWERS5}; test 0.7278", {"backbone": "handcrafted", **flowers}),
    )
    recipes = [
        Recipe(
            name=name,
            systems=(system,),
            source=source,
            epochs=30,
            config=from_scratch(**changes),
        )
        for name, system, source, changes in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
