"""Which head: width, batch norm, one or more dense layers, dropout; the backbone mostly frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search_spaces._contract import DataFacts, Defaults, Recipe
from search_spaces._published import fit_study, probe
from search_spaces._suggestions import suggest_classifier
from search_spaces._systems import SCENES

if TYPE_CHECKING:
    from optuna import Trial

BACKBONES = ("resnet101", "inception_resnet_v2")
DEFAULTS = Defaults(trials=48, max_epochs=20, image_size=224)


def space(trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
    return suggest_classifier(
        trial,
        backbones=backbones,
        max_epochs=max_epochs,
        regimes=("finetune", "linear_probe"),
        depths=(0, 1),
        widths=(0, 128, 256, 512, "256-128", "512-256"),
        poolings=("average", "flatten"),
    )


def recipes(facts: DataFacts, *, backbones: Sequence[str], max_epochs: int) -> list[Recipe]:
    published = {"head_width": 256, "head_batch_norm": True, "head_l2": 0.0, "dropout": 0.5}
    shared = {"backbone": "resnet101", "head_pooling": "flatten", **published}
    rows: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dense 128", {"head_width": 128}),
        ("dense 256", {}),
        ("dense 512", {"head_width": 512}),
        ("dense 256 without batch norm", {"head_batch_norm": False}),
        ("dense 512 and 256", {"head_width": "512-256"}),
        ("dense 256, dropout 0.2", {"dropout": 0.2}),
    )
    source = f"{SCENES}; wider converges faster, batch norm helps"
    recipes = [
        Recipe(name=name, systems=("D6",), source=source, epochs=20, config=probe(**shared | changes))
        for name, changes in rows
    ]
    return fit_study(recipes, backbones=backbones, max_epochs=max_epochs)
