"""The published systems that this project expresses and runs, with the spaces and recipes that run them."""

from __future__ import annotations

from typing import Any

from optuna.trial import FixedTrial

from search_spaces._catalogue import load_space, names
from search_spaces._contract import DataFacts

SYSTEMS = {
    "A1": "ResNet50 features, 5 nearest neighbours",
    "A2": "ResNet50, new softmax on the frozen backbone",
    "A3": "ResNet50, new softmax on the frozen backbone, augmented",
    "A4": "ResNet50, unfrozen, augmented",
    "A5": "ResNet50 from scratch",
    "A6": "ResNeXt101, new softmax on the frozen backbone",
    "A7": "ResNeXt101, new softmax on the frozen backbone, augmented",
    "A8": "ResNeXt101, unfrozen, augmented",
    "A9": "ResNeXt101 from scratch",
    "A10": "EfficientNet-B3, trained from the 5th of its 7 blocks upward",
    "A11": "Big Transfer with BiT-HyperRule",
    "B1": "linear softmax on the pixels",
    "B2": "the same on zeros: what can be known without looking",
    "B3": "VGG16 in two phases",
    "B4": "ResNet50 in two phases, the second at 1e-5",
    "B5": "six-convolution CNN from scratch",
    "B6": "VGG16 without its last pooling",
    "B7": "batch sizes 4, 8, 16, 32 and 64",
    "B8": "a ResNet whose depth, version and pooling are searched",
    "B9": "flips in both directions and small shifts, in both phases",
    "B10": "class weights",
    "B11": "minority classes over-sampled with an augmentation of their own",
    "B12": "CutMix: share of mixed images, limits of the patch",
    "B16": "images of a conditional GAN beside the real ones",
    "C1": "modified MobileNetV2: Mish, blocks that make several passes",
    "C2": "C1 with dropout",
    "C3": "C1 with blurred max pooling",
    "C4": "ResNet34, ResNet50, ResNet50-D and GoogLeNet from scratch",
    "C5": "ResNet50 with dropout",
    "C6": "Adam against SGD",
    "C7": "constant, exponential and cosine schedule",
    "D1": "ResNet101, dense 256 with batch norm on the frozen backbone",
    "D2": "ResNet101, then all layers unfrozen",
    "D3": "Inception-ResNet-v2, dense 256 with batch norm on the frozen backbone",
    "D4": "Inception-ResNet-v2, then the last 60 layers unfrozen",
    "D5": "ResNet101V2 and VGG16 with the same head",
    "D6": "head study: width, batch norm, number of dense layers, dropout",
    "D7": "SGD with several momenta, Adam, RMSprop",
    "D8": "rate cut on plateaus, early stopping, capped steps an epoch",
    "D9": "shifts and zoom of 10 %, horizontal flip",
    "E1": "hand-crafted CNN of four groups",
    "E2": "MobileNetV2, dense 1024",
    "E3": "AlexNet, last two dense layers replaced",
    "E4": "Inception-v3, dense 100 and 50 with dropout",
    "E5": "VGG16, dense 100 and 50 with dropout",
    "E6": "ResNet50, dense 100 and 50 with dropout",
    "E7": "ResNet50, augmented, dense 512 and 128 with L2",
}
"""Published systems by id. Tables, plots and methods over several trials have no row: they are no trials."""

_FACTS = DataFacts(num_train=1_020, num_classes=102, median_pixels=500 * 600)
"""The facts of the 102 flowers, for BiT's space, whose budget follows from them."""


def list_systems(max_epochs: int | None = None) -> list[dict[str, Any]]:
    """List one entry for each (system, space, recipe), in the order of SYSTEMS.

    Args:
        max_epochs: budget that the configurations are made for; None = each space's own.
    """
    order = {system: position for position, system in enumerate(SYSTEMS)}
    rows = [row for name in names() for row in _rows(name, max_epochs)]
    return sorted(rows, key=lambda row: (order[row["id"]], row["space"] == "all"))


def _rows(name: str, max_epochs: int | None) -> list[dict[str, Any]]:
    space = load_space(name)
    budget = max_epochs or space.max_epochs(_FACTS)
    rows = []
    for recipe in space.recipes(_FACTS, backbones=space.backbones, max_epochs=budget):
        trial: Any = FixedTrial(recipe.config)
        facts = {
            "space": name,
            "recipe": recipe.name,
            "source": recipe.source,
            "epochs": recipe.epochs,
            # As the search does it: a recipe's values replace those of the space.
            "config": {**space.propose(trial, backbones=space.backbones, max_epochs=budget), **recipe.config},
        }
        rows += [{"id": system, "system": SYSTEMS[system], **facts} for system in recipe.systems]
    return rows
