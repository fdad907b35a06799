"""Few images of some classes: synthetic ones of --synthetic against over-sampling, weights and mixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._recipes import PLANTS, fit_study, probe, two_phases, unfrozen
from search_spaces._suggestions import CLASSIFIER_WIDTHS, suggest_balance, suggest_classifier, suggest_mixing

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet50", "lite0", "lite2")
DEFAULTS = Defaults(trials=48, max_epochs=30, image_size=96)
WIDTHS = CLASSIFIER_WIDTHS

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of the synthetic images: few, so that trials share activations, and none among them."""


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=("finetune", "linear_probe", "two_phase"),
        policies=("none", "flip", "plants_b9", "medium"),
    )
    trial.suggest_categorical("synthetic_share", SHARES)
    suggest_balance(trial)
    suggest_mixing(trial)
    if trial.params["mix"] != "none":
        trial.suggest_categorical("mix_within_class", (False, True))
    return fixed


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    """The published configuration after the same one without synthetic images, and the cheaper remedies."""
    plain = {
        "class_weights": "none",
        "sampler": "shuffle",
        "minority_policy": "",
        "mix": "none",
        "synthetic_share": 0.0,
    }
    phases = two_phases(
        share=25 / 145,
        max_epochs=max_epochs,
        backbone="resnet50",
        batch_size=64,
        early_stopping_patience=10,
        policy="plants_b9",
        **plain,
    )
    head = probe(backbone="lite0", **plain)
    stages = unfrozen(
        backbone="lite0", unfreeze_depth=2, learning_rate=3e-4, **{**plain, "schedule": "cosine"}
    )
    mixed = {"mix_share": 0.5, "mix_within_class": True}
    patch = {"mix": "cutmix", "cutmix_min": 0.1, "cutmix_max": 0.5, **mixed}
    blend = {"mix": "mixup", "mix_alpha": 1.0, **mixed}
    here = "this project, benchmarks/synthetic_images.py"
    gan = f"{PLANTS}; a conditional GAN, whose modes collapsed: not used"
    rows = (
        ("two phases, no synthetic images", (), f"{PLANTS}; the pair of the next", 145, phases),
        ("two phases, synthetic images", ("B16",), gan, 145, phases | {"synthetic_share": 1.0}),
        ("frozen head, no synthetic images", (), here, None, head),
        ("frozen head, synthetic images", (), here, None, head | {"synthetic_share": 1.0}),
        ("two stages unfrozen, no synthetic images", (), here, None, stages),
        ("two stages unfrozen, synthetic images", (), here, None, stages | {"synthetic_share": 1.0}),
        ("frozen head, minority over-sampled", (), here, None, head | {"minority_policy": "medium"}),
        ("frozen head, CutMix within a class", (), here, None, head | patch),
        ("frozen head, MixUp within a class", (), here, None, head | blend),
    )
    recipes = [
        Recipe(name=name, systems=systems, source=source, epochs=epochs, config=config)
        for name, systems, source, epochs, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
