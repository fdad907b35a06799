"""Few, small, imbalanced images: flips and shifts, class weights, over-sampling, CutMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._recipes import PLANTS, fit_study, two_phases
from search_spaces._suggestions import CLASSIFIER_WIDTHS, suggest_balance, suggest_classifier, suggest_mixing

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50", "vgg16", "mobilenet_v2")
DEFAULTS = Defaults(trials=48, max_epochs=30, image_size=96)
WIDTHS = CLASSIFIER_WIDTHS


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        policies=("none", "flip", "plants_b9", "medium"),
    )
    if trial.params["regime"] != "knn":
        suggest_balance(trial)
        suggest_mixing(trial)
    return fixed


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    plain = two_phases(
        share=25 / 145,
        max_epochs=max_epochs,
        backbone="resnet50",
        batch_size=64,
        early_stopping_patience=10,
        class_weights="none",
        sampler="shuffle",
        minority_policy="",
        mix="none",
    )
    shifted = plain | {"policy": "plants_b9"}
    cutmix = {"mix": "cutmix", "mix_share": 0.5, "cutmix_min": 0.1, "cutmix_max": 0.5}
    rows = (
        ("two phases", "B4", "test 0.868", plain),
        ("flips and shifts", "B9", "a gain in both phases", shifted),
        ("class weights", "B10", "minority 0.65 to 0.71", shifted | {"class_weights": "balanced"}),
        ("minority over-sampled", "B11", "validation 0.90", shifted | {"minority_policy": "medium"}),
        ("CutMix", "B12", "smaller gap, no gain on validation", shifted | cutmix),
    )
    recipes = [
        Recipe(name=name, systems=(system,), source=f"{PLANTS}; {found}", epochs=145, config=config)
        for name, system, found, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
