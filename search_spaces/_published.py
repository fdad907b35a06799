"""Families of published systems: search spaces that differ in data only, one row of FAMILIES each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe, SearchSpace
from search_spaces._recipes import (
    ADAM,
    FLOWERS5,
    FLOWERS102,
    IMAGENETTE,
    PLANTS,
    SCENES,
    fit_study,
    from_scratch,
    probe,
    two_phases,
    unfrozen,
)
from search_spaces._suggestions import CLASSIFIER_WIDTHS, suggest_classifier

if TYPE_CHECKING:
    from optuna import Trial

Config = Mapping[str, Any]
Published = tuple[str, str, str, int | None, Config | Callable[[int], Config]]
"""Name, ids of systems, source, published budget in epochs, and the configuration, or what makes it for the
budget of a study."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Row of a search space: the choices that it offers to the searcher, and its published configurations."""

    summary: str
    backbones: tuple[str, ...]
    defaults: Defaults
    offered: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `suggest_classifier`."""

    steps_per_epoch: tuple[int, ...] = ()
    """Choices of the hyperparameter; it is not searched without any."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters that all its trials share."""

    published: tuple[Published, ...]
    """Tried first, in this order."""

    def space(self, trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
        """Suggest the values that vary, and return the fixed ones."""
        fixed = suggest_classifier(trial, backbones=backbones, max_epochs=max_epochs, **self.offered)
        if self.steps_per_epoch:
            trial.suggest_categorical("steps_per_epoch", self.steps_per_epoch)
        return {**fixed, **self.fixed}

    def recipes(self, facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
        """Yield the published configurations that fit the study."""
        recipes = [
            Recipe(
                name=name,
                systems=tuple(systems.split()),
                source=source,
                epochs=epochs,
                config=dict(config(max_epochs) if callable(config) else config),
            )
            for name, systems, source, epochs, config in self.published
        ]
        return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)


def load_family(name: str) -> SearchSpace:
    """Load the family of this name as a search space."""
    family = FAMILIES[name]
    return SearchSpace(
        name=name,
        summary=family.summary,
        backbones=family.backbones,
        defaults=family.defaults,
        suggest=family.space,
        recipes=family.recipes,
        widths=CLASSIFIER_WIDTHS,
    )


def in_two_phases(share: float, **changes: Any) -> Callable[[int], Config]:
    """Make two phases for a study's budget: the head trains alone for this share of the epochs."""
    return lambda max_epochs: two_phases(share=share, max_epochs=max_epochs, **changes)


def sgd(momentum: float) -> dict[str, Any]:
    return {"optimizer": "sgd", "momentum": momentum, "learning_rate": 1e-2}


POOLINGS = ("average", "flatten")
SCENES_POLICIES = ("none", "flip", "light", "medium", "scenes_d9")
DENSE = {"head_width": 256, "head_batch_norm": True, "head_l2": 0.0, "dropout": 0.5}
SCENES_HEAD = {"head_pooling": "flatten", **DENSE}
PLAIN = {"head_batch_norm": False, "head_l2": 0.0, "early_stopping_patience": 5}
FLOWERS_HEAD = {**PLAIN, "head_width": "100-50", "dropout": 0.5}
WIDE_HEAD = {**PLAIN, "head_width": "512-128", "head_l2": 0.01, "dropout": 0.5, "policy": "flowers_e7"}
PLANTS_PHASES = {"batch_size": 64, "early_stopping_patience": 10}
IMAGENETTE_SCRATCH = {"policy": "imagenette", "schedule": "cosine"}
SCRATCH_50 = from_scratch(backbone="resnet50", head_pooling="average", policy="imagenette")
SCENES_101 = probe(backbone="resnet101", **SCENES_HEAD)
BATCH_SIZES = (4, 8, 16, 32, 64)
VALIDATION_IMAGES = 30 * 32
"""D8's 30 validation steps at its batch size; as images, they do not depend on the batch size of a trial."""


# fmt: off
FAMILIES: dict[str, Family] = {
    "alexnet": Family(
        summary="AlexNet up to its first dense layer, with a new one and a new softmax on top.",
        backbones=("alexnet",),
        defaults=Defaults(trials=24, max_epochs=30, image_size=224),
        offered={"widths": (0, 256, 2048)},
        published=(
            ("AlexNet, last two dense layers replaced", "E3", f"{FLOWERS5}; test 0.8972", 30,
             probe(backbone="alexnet", head_width=2048, **PLAIN)),
        ),
    ),
    "augmentation": Family(
        summary="Which augmentation, all else as published: policies by name, one choice among the others.",
        backbones=("resnet50", "resnet101"),
        defaults=Defaults(trials=40, max_epochs=20, image_size=224),
        offered={
            "widths": (0, 256, "512-128"),
            "poolings": POOLINGS,
            "policies": (
                *("none", "flip", "light", "medium", "strong", "colour", "random_resized_crop"),
                *("randaugment", "trivialaugment", "random_erasing"),
                *("plants_b9", "scenes_d9", "flowers_e7", "imagenette"),
            ),
        },
        published=(
            ("flips and shifts", "B9", f"{PLANTS}; a gain", 145,
             in_two_phases(25 / 145, backbone="resnet50", head_pooling="average", policy="plants_b9",
                           **PLANTS_PHASES)),
            ("shifts and zoom of a tenth", "D9", f"{SCENES}; little gain", 20,
             SCENES_101 | {"policy": "scenes_d9"}),
            ("flips, shifts, zoom, contrast", "E7", f"{FLOWERS5}; test 0.9306", 30,
             probe(backbone="resnet50", head_pooling="average", **WIDE_HEAD)),
        ),
    ),
    "batch_size": Family(
        summary="Batch sizes from 4 to 64 on ResNet50 in two phases, with all else equal.",
        backbones=("resnet50",),
        defaults=Defaults(trials=16, max_epochs=30, image_size=96),
        offered={"batch_sizes": BATCH_SIZES, "regimes": ("two_phase", "finetune")},
        published=tuple(
            (f"batch size {size}", "B7", f"{PLANTS}; small is best on validation, large on test", 145,
             in_two_phases(25 / 145, backbone="resnet50", batch_size=size, early_stopping_patience=10))
            for size in BATCH_SIZES
        ),
    ),
    "callbacks": Family(
        summary="Short epochs that all trials share, with rates cut on plateaus and early stopping.",
        backbones=("resnet101", "inception_resnet_v2"),
        defaults=Defaults(trials=24, max_epochs=50, image_size=224),
        offered={"poolings": POOLINGS},
        fixed={"steps_per_epoch": 50, "validation_images": VALIDATION_IMAGES},
        published=(
            ("plateaus, early stopping, 50 steps an epoch", "D8",
             f"{SCENES}; best epoch kept, at most 50 training and 30 validation steps", 50,
             in_two_phases(20 / 50, backbone="resnet101", schedule="plateau", early_stopping_patience=5,
                           **SCENES_HEAD)),
        ),
    ),
    "efficientnet_b3": Family(
        summary="EfficientNet-B3, trained from one of its seven blocks upward.",
        backbones=("efficientnet_b3",),
        defaults=Defaults(trials=24, max_epochs=20, image_size=288),
        offered={"depths": (1, 2, 3, "from:blocks.5", "from:blocks.4", "from:blocks.3", "all")},
        published=(
            # Blocks count from 0 here: blocks.4 is the 5th of the 7.
            ("EfficientNet-B3, from the 5th block upward", "A10", f"{FLOWERS102}; accuracy 0.9083", 20,
             unfrozen(backbone="efficientnet_b3", unfreeze_depth="from:blocks.4", policy="medium")),
        ),
    ),
    "googlenet": Family(
        summary="GoogLeNet, pretrained or from scratch.",
        backbones=("googlenet",),
        defaults=Defaults(trials=24, max_epochs=30, image_size=224),
        offered={"policies": ("none", "flip", "imagenette", "medium")},
        published=(
            ("GoogLeNet from scratch", "C4", IMAGENETTE, None,
             from_scratch(backbone="googlenet", **IMAGENETTE_SCRATCH)),
        ),
    ),
    "handcrafted": Family(
        summary="Small networks of our own, from scratch: what a pretrained backbone is measured against.",
        backbones=("handcrafted", "six_conv", "linear_pixels"),
        defaults=Defaults(trials=32, max_epochs=30, image_size=96),
        offered={"regimes": ("finetune", "scratch"), "depths": (0, 1, "all"), "widths": (0, 64, 128)},
        published=(
            ("linear softmax on pixels", "B1", f"{PLANTS}; about 0.25", 30,
             from_scratch(backbone="linear_pixels")),
            ("the same on zeros", "B2", f"{PLANTS}; below 0.25", 30,
             from_scratch(backbone="linear_pixels", zero_inputs=True)),
            ("six convolutions", "B5", f"{PLANTS}; validation 0.77", 30, from_scratch(backbone="six_conv")),
            # L2 of 0.001 on a weight adds 0.002 of it to its gradient, which is Adam's decay.
            ("four groups", "E1", f"{FLOWERS5}; test 0.7278", 30,
             from_scratch(backbone="handcrafted", head_width=64, dropout=0.1, weight_decay=2e-3, **PLAIN)),
        ),
    ),
    "head": Family(
        summary="Which head: width, batch norm, one or more dense layers, dropout; the backbone mostly "
                "frozen.",
        backbones=("resnet101", "inception_resnet_v2"),
        defaults=Defaults(trials=48, max_epochs=20, image_size=224),
        offered={
            "regimes": ("finetune", "linear_probe"),
            "depths": (0, 1),
            "widths": (0, 128, 256, 512, "256-128", "512-256"),
            "poolings": POOLINGS,
        },
        published=tuple(
            (name, "D6", f"{SCENES}; wider converges faster, batch norm helps", 20, SCENES_101 | changes)
            for name, changes in (
                ("dense 128", {"head_width": 128}),
                ("dense 256", {}),
                ("dense 512", {"head_width": 512}),
                ("dense 256 without batch norm", {"head_batch_norm": False}),
                ("dense 512 and 256", {"head_width": "512-256"}),
                ("dense 256, dropout 0.2", {"dropout": 0.2}),
            )
        ),
    ),
    "hyper_resnet": Family(
        summary="A ResNet whose depth, version and pooling are searched beside optimizer and rate.",
        backbones=tuple(
            f"hyper_resnet:{version}:{depth}:{pooling}"
            for version in ("v1", "v2", "next")
            for depth in (26, 50, 101)
            for pooling in ("average", "max")
        ),
        defaults=Defaults(trials=48, max_epochs=30, image_size=96),
        offered={"regimes": ("finetune", "scratch"), "optimizers": ("adam", "adamw", "sgd", "rmsprop")},
        published=(
            ("HyperResNet, version 2, 50 layers", "B8",
             f"{PLANTS}; no gain, and too slow to explore there", None,
             from_scratch(backbone="hyper_resnet:v2:50:average", policy="flip")),
        ),
    ),
    "imagenette": Family(
        summary="Ten easy classes from scratch: modified MobileNetV2, ResNets, GoogLeNet.",
        backbones=(
            *("mobilenet_v2_mish", "mobilenet_v2_mish_dropout", "mobilenet_v2_mish_blur"),
            *("resnet34", "resnet50", "resnet50d", "googlenet"),
        ),
        defaults=Defaults(trials=48, max_epochs=30, image_size=160),
        offered={"regimes": ("finetune", "scratch"), "policies": ("none", "flip", "imagenette", "medium")},
        published=tuple(
            (name, system, f"{IMAGENETTE}; {found}", None,
             from_scratch(backbone=backbone, dropout=dropout, **IMAGENETTE_SCRATCH))
            for name, system, found, backbone, dropout in (
                ("MobileNetV2 with Mish and repeated passes", "C1", "0.90", "mobilenet_v2_mish", 0.0),
                ("the same with dropout", "C2", "slower, no gain", "mobilenet_v2_mish_dropout", 0.2),
                ("the same with blurred max pooling", "C3", "lower", "mobilenet_v2_mish_blur", 0.0),
                ("ResNet34", "C4", "from scratch", "resnet34", 0.0),
                ("ResNet50", "C4", "0.87", "resnet50", 0.0),
                ("ResNet50-D", "C4", "from scratch", "resnet50d", 0.0),
                ("GoogLeNet", "C4", "from scratch", "googlenet", 0.0),
                ("ResNet50 with dropout", "C5", "from scratch", "resnet50", 0.5),
            )
        ),
    ),
    "inception_resnet_v2": Family(
        summary="Inception-ResNet-v2: a dense head, then its last layers unfrozen.",
        backbones=("inception_resnet_v2",),
        defaults=Defaults(trials=24, max_epochs=30, image_size=299),
        offered={
            "depths": (1, 2, 3, "layers:60", "layers:120", "all"),
            "poolings": POOLINGS,
            "policies": SCENES_POLICIES,
        },
        steps_per_epoch=(0, 50),
        published=(
            ("Inception-ResNet-v2, dense 256", "D3", f"{SCENES}; test 0.9283", 20,
             probe(backbone="inception_resnet_v2", steps_per_epoch=50, **SCENES_HEAD)),
            ("Inception-ResNet-v2, then the last 60 layers", "D4", f"{SCENES}; test 0.9239", 30,
             in_two_phases(20 / 30, backbone="inception_resnet_v2", unfreeze_depth="layers:60",
                           steps_per_epoch=50, **SCENES_HEAD)),
        ),
    ),
    "inception_v3": Family(
        summary="Inception-v3 with two narrow dense layers on top.",
        backbones=("inception_v3",),
        defaults=Defaults(trials=24, max_epochs=30, image_size=299),
        offered={"widths": (0, 256, "100-50")},
        published=(
            ("Inception-v3, dense 100 and 50", "E4", f"{FLOWERS5}; test 0.8722", 30,
             probe(backbone="inception_v3", **FLOWERS_HEAD)),
        ),
    ),
    "mobilenet_v2": Family(
        summary="MobileNetV2 with a wide dense layer on top.",
        backbones=("mobilenet_v2",),
        defaults=Defaults(trials=24, max_epochs=30, image_size=224),
        offered={"widths": (0, 256, 1024)},
        published=(
            ("MobileNetV2, dense 1024", "E2", f"{FLOWERS5}; test 0.9111", 30,
             probe(backbone="mobilenet_v2", head_width=1024, **PLAIN)),
        ),
    ),
    "optimizer_schedule": Family(
        summary="Which optimizer, which momentum, which schedule: the two studies of it that were published.",
        backbones=("resnet50", "resnet101"),
        defaults=Defaults(trials=40, max_epochs=30, image_size=224),
        offered={
            "optimizers": ("adam", "adamw", "sgd", "rmsprop"),
            "policies": ("none", "flip", "light", "medium", "imagenette"),
            "poolings": POOLINGS,
        },
        published=(
            ("Adam from scratch", "C6 C7", f"{IMAGENETTE}; Adam is much faster; cosine 0.87", None,
             SCRATCH_50 | {"schedule": "cosine"}),
            ("SGD from scratch", "C6", f"{IMAGENETTE}; Adam is much faster", None,
             SCRATCH_50 | {"schedule": "cosine"} | sgd(0.9)),
            ("constant rate 0.001", "C7", f"{IMAGENETTE}; barely 0.80", None,
             SCRATCH_50 | {"schedule": "constant"}),
            ("exponential schedule", "C7", IMAGENETTE, None, SCRATCH_50 | {"schedule": "exponential"}),
            *(
                (f"dense head, {name}", "D7", f"{SCENES}; all alike", None, SCENES_101 | changes)
                for name, changes in (
                    ("Adam", ADAM),
                    ("SGD", sgd(0.0)),
                    ("SGD, momentum 0.5", sgd(0.5)),
                    ("SGD, momentum 0.9", sgd(0.9)),
                    ("RMSprop", {"optimizer": "rmsprop", "momentum": 0.0}),
                )
            ),
        ),
    ),
    "resnet50": Family(
        summary="ResNet50: from nearest neighbours on its features to training it from scratch.",
        backbones=("resnet50",),
        defaults=Defaults(trials=32, max_epochs=20, image_size=224),
        offered={
            "widths": (0, 256, "100-50", "512-128"),
            "policies": ("none", "flip", "light", "medium", "strong", "flowers_e7"),
        },
        published=tuple(
            (f"ResNet50, {what}", system, source, epochs, config)
            for what, system, source, epochs, config in (
                ("features and 5 neighbours", "A1", f"{FLOWERS102}; accuracy 0.6098", None,
                 {"backbone": "resnet50", "regime": "knn", "num_neighbours": 5, "distance": "euclidean"}),
                ("new softmax", "A2", f"{FLOWERS102}; accuracy 0.8009", 20, probe(backbone="resnet50")),
                ("new softmax, augmented", "A3", f"{FLOWERS102}; 0.8343", 20,
                 probe(backbone="resnet50", policy="medium")),
                ("unfrozen, augmented", "A4", FLOWERS102, 20, unfrozen(backbone="resnet50", policy="medium")),
                ("from scratch", "A5", FLOWERS102, 30, from_scratch(backbone="resnet50")),
                ("two phases", "B4", f"{PLANTS}; test 0.868", 145,
                 in_two_phases(25 / 145, backbone="resnet50", **PLANTS_PHASES)),
                ("dense 100 and 50", "E6", f"{FLOWERS5}; test 0.9306", 30,
                 probe(backbone="resnet50", **FLOWERS_HEAD)),
                ("dense 512 and 128, augmented", "E7", f"{FLOWERS5}; test 0.9306", 30,
                 probe(backbone="resnet50", **WIDE_HEAD)),
            )
        ),
    ),
    "resnet101": Family(
        summary="ResNet101, first and second version, with one dense layer and batch norm as its head.",
        backbones=("resnet101", "resnet101v2"),
        defaults=Defaults(trials=24, max_epochs=50, image_size=224),
        offered={"poolings": POOLINGS, "policies": SCENES_POLICIES},
        steps_per_epoch=(0, 50),
        published=(
            ("ResNet101, dense 256", "D1", f"{SCENES}; test 0.5475", 20,
             SCENES_101 | {"steps_per_epoch": 50}),
            ("ResNet101, then unfrozen", "D2", f"{SCENES}; test 0.9222", 50,
             in_two_phases(20 / 50, backbone="resnet101", steps_per_epoch=50, **SCENES_HEAD)),
            ("ResNet101V2, dense 256", "D5", f"{SCENES}; good", 20,
             SCENES_101 | {"backbone": "resnet101v2", "steps_per_epoch": 50}),
        ),
    ),
    "resnext101": Family(
        summary="ResNeXt101 (32 x 8d): a new softmax, the whole network, or training from scratch.",
        backbones=("resnext101",),
        defaults=Defaults(trials=24, max_epochs=20, image_size=224),
        published=tuple(
            (f"ResNeXt101, {what}", system, f"{FLOWERS102}; the best of its four has 0.8787", epochs, config)
            for what, system, epochs, config in (
                ("new softmax", "A6", 20, probe(backbone="resnext101")),
                ("new softmax, augmented", "A7", 20, probe(backbone="resnext101", policy="medium")),
                ("unfrozen, augmented", "A8", 20, unfrozen(backbone="resnext101", policy="medium")),
                ("from scratch", "A9", 30, from_scratch(backbone="resnext101")),
            )
        ),
    ),
    "vgg16": Family(
        summary="VGG16 with and without its last pooling.",
        backbones=("vgg16", "vgg16_no_last_pool"),
        defaults=Defaults(trials=24, max_epochs=30, image_size=224),
        offered={"widths": (0, 256, "100-50"), "poolings": POOLINGS},
        published=(
            ("VGG16 in two phases", "B3 B6", f"{PLANTS}; close to ResNet50", 120,
             in_two_phases(0.2, backbone="vgg16", head_pooling="average", **PLANTS_PHASES)),
            ("VGG16 without its last pooling", "B6", PLANTS, 120,
             in_two_phases(0.2, backbone="vgg16_no_last_pool", head_pooling="average", **PLANTS_PHASES)),
            ("VGG16, dense 256 on all positions", "D5", f"{SCENES}; poor", 20,
             probe(backbone="vgg16", **SCENES_HEAD)),
            ("VGG16, dense 100 and 50", "E5", f"{FLOWERS5}; test 0.8972", 30,
             probe(backbone="vgg16", head_pooling="average", **FLOWERS_HEAD)),
        ),
    ),
}
# fmt: on
