"""Short epochs that all trials share, with rates cut on plateaus and early stopping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, two_phases
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet101", "inception_resnet_v2")
VALIDATION_IMAGES = 30 * 32
"""D8's 30 validation steps at its batch size; as images, they do not depend on the batch size of a trial."""
DEFAULTS = Defaults(trials=24, max_epochs=50, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial, backbones=backbones, max_epochs=max_epochs, poolings=("average", "flatten")
    )
    return fixed | {"steps_per_epoch": 50, "validation_images": VALIDATION_IMAGES}


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    head = {"head_pooling": "flatten", "head_width": 256, "head_batch_norm": True, "head_l2": 0.0}
    config = two_phases(
        share=20 / 50,
        max_epochs=max_epochs,
        backbone="resnet101",
        **head,
        dropout=0.5,
        schedule="plateau",
        early_stopping_patience=5,
    )
    recipe = Recipe(
        name="plateaus, early stopping, 50 steps an epoch",
        systems=("D8",),
        source=f"{SCENES}; best epoch kept, at most 50 training and 30 validation steps",
        epochs=50,
        config=config,
    )
    return fit_study([recipe], backbones=backbones, max_epochs=max_epochs)
