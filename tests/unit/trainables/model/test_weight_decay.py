"""Weight decay shrinks the weights of layers, and nothing else of a backbone."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from contract.trial_config import TrialConfig
from trainables.assembly import make_phase_optimizer
from trainables.model.classifier import Classifier
from trainables.training.regimes import Phase

VIT = {
    "model_name": "vit_tiny_patch16_224",
    "img_size": 32,
    "embed_dim": 16,
    "num_heads": 2,
    "depth": 2,
    "init_values": 1e-4,
}
SWIN = {
    "model_name": "swin_tiny_patch4_window7_224",
    "img_size": 32,
    "window_size": 2,
    "embed_dim": 8,
    "depths": (1, 1),
    "num_heads": (1, 2),
}
CONVNEXT = {"model_name": "convnext_atto", "dims": (8, 8, 8, 16), "depths": (1, 1, 1, 1)}
DEPTHS: list[int | str] = ["all", 1]


def make_classifier(options: dict[str, object], depth: int | str) -> Classifier:
    torch.manual_seed(0)
    backbone = timm.create_model(**options, pretrained=False, num_classes=0)  # type: ignore[arg-type]
    return Classifier(backbone, nn.Linear(backbone.num_features, 3), depth=depth)


def decayed_and_kept(classifier: Classifier) -> tuple[set[str], set[str]]:
    """Names of the backbone's trainable parameters, with and without decay."""
    config = TrialConfig(backbone="x", weight_decay=0.1)
    phase = Phase(first_epoch=1, num_epochs=1, depth=classifier.depth)
    optimizer = make_phase_optimizer(config, classifier, phase)
    names = {id(value): name for name, value in classifier.backbone.named_parameters()}
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for group in optimizer.param_groups:
        if group["part"] == "backbone":
            found[group["weight_decay"] > 0] |= {names[id(value)] for value in group["params"]}
    return found[True], found[False]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("options", [VIT, SWIN, CONVNEXT], ids=["vit", "swin", "convnext"])
def test_only_the_weights_of_layers_are_decayed(options: dict[str, object], depth: int | str) -> None:
    classifier = make_classifier(options, depth)
    modules = dict(classifier.backbone.named_modules())

    decayed, kept = decayed_and_kept(classifier)

    layers = {
        f"{name}.weight" for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    trained = set(classifier.trainable_backbone_parameters())
    assert decayed == layers & trained
    assert decayed | kept == trained


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (VIT, {"pos_embed", "cls_token", "blocks.1.ls1.gamma", "norm.weight"}),
        (SWIN, {"layers.1.blocks.0.attn.relative_position_bias_table", "layers.1.blocks.0.norm1.weight"}),
        (CONVNEXT, {"stages.1.blocks.0.gamma", "stages.1.blocks.0.norm.weight"}),
    ],
    ids=["vit", "swin", "convnext"],
)
def test_embeddings_tokens_tables_and_scales_are_not_decayed(
    options: dict[str, object], names: set[str]
) -> None:
    _, kept = decayed_and_kept(make_classifier(options, "all"))

    assert names <= kept


def test_a_list_of_the_model_may_hold_patterns() -> None:
    classifier = make_classifier(CONVNEXT, "all")
    classifier.backbone.no_weight_decay = lambda: {"stages.0.*"}  # type: ignore[assignment]

    decayed, kept = decayed_and_kept(classifier)

    assert not any(name.startswith("stages.0.") for name in decayed)
    assert "stages.0.blocks.0.mlp.fc1.weight" in kept
