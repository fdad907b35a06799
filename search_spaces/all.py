"""Every published backbone and regime, with heads, schedules, augmentation and imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._recipes import FLOWERS5, PLANTS, fit_study, probe, two_phases, unfrozen
from search_spaces._suggestions import CLASSIFIER_WIDTHS, REGIMES, suggest_classifier

if TYPE_CHECKING:
    from optuna import Trial

PACKAGED = ("lite0", "lite1", "lite2")
PUBLISHED = ("resnet50", "resnet101", "resnext101", "efficientnet_b3", "bit_r50x1", "vgg16", "mobilenet_v2")
INCEPTION = ("inception_v3", "inception_resnet_v2", "googlenet", "alexnet")
MODERN = ("convnext_tiny", "efficientnet_v2_s", "mobilenet_v3", "mobilenet_v4", "vit_small", "swin_tiny")
BACKBONES = (*PACKAGED, *PUBLISHED, *INCEPTION, *MODERN)
DEFAULTS = Defaults(trials=96, max_epochs=20, image_size=224)
WIDTHS = CLASSIFIER_WIDTHS


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    fixed = suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=(*REGIMES, "bit"),
        optimizers=("adam", "adamw", "sgd", "rmsprop"),
        widths=(0, 128, 256, 512, "100-50", "512-128"),
        policies=("none", "flip", "light", "medium", "strong", "randaugment", "trivialaugment"),
    )
    if trial.params["regime"] == "knn":
        return fixed
    trial.suggest_categorical("class_weights", ("none", "balanced", "effective"))
    trial.suggest_categorical("mix", ("none", "mixup", "cutmix"))
    if trial.params["regime"] in ("finetune", "two_phase", "gradual"):
        trial.suggest_float("layer_decay", 0.5, 1.0)
    if trial.params["regime"] != "bit":
        trial.suggest_categorical("label_smoothing", (0.0, 0.1))
        trial.suggest_categorical("ema_decay", (0.0, 0.99))
    return fixed


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    plain = {"class_weights": "none", "mix": "none", "label_smoothing": 0.0, "ema_decay": 0.0}
    shared = {"backbone": "resnet50", **plain}
    head = {"head_width": "100-50", "head_batch_norm": False, "head_l2": 0.0}
    dense = probe(**shared, **head) | {"dropout": 0.5, "early_stopping_patience": 5}
    phases = two_phases(
        share=25 / 145,
        max_epochs=max_epochs,
        batch_size=64,
        early_stopping_patience=10,
        layer_decay=1.0,
        **shared,
    )
    kolesnikov = "Kolesnikov et al. 2020, arXiv:1912.11370"
    hyperrule = {
        "backbone": "bit_r50x1",
        "regime": "bit",
        "unfreeze_depth": "all",
        "batch_size": 128,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "head_width": 0,
        "policy": "flip",
        "early_stopping_patience": 0,
        "class_weights": "none",
        "mix": "none",
    }
    kornblith = "Kornblith et al. 2019, arXiv:1805.08974"
    whole = unfrozen(**{**shared, "backbone": "efficientnet_b3"}, policy="light", layer_decay=1.0)
    rows = (
        ("ResNet50, two phases", ("B4",), f"{PLANTS}; test 0.868", phases),
        ("ResNet50, dense 100 and 50", ("E6",), f"{FLOWERS5}; test 0.9306", dense),
        ("BiT-HyperRule at batch 128", (), kolesnikov, hyperrule),
        ("EfficientNet-B3, unfrozen", (), kornblith, whole),
        ("EfficientNet-Lite0, linear head", (), kornblith, probe(**{**shared, "backbone": "lite0"})),
    )
    recipes = [
        Recipe(name=name, systems=systems, source=source, config=config)
        for name, systems, source, config in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
