"""Writes a classifier with a linear head as a folder that timm loads by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from contract.answer import Combination, Pooling
from contract.decoding import Fit
from contract.files import to_json
from contract.messages import StudySettings
from trainables.export.ensemble import as_linear
from trainables.export.members import Configs, Member, common_fit, config_of, load_members
from trainables.model.backbones import Backbone, find_backbone
from trainables.model.networks import has_fixed_size, normalisation
from trainables.training.regimes import load_regime

CONFIG, WEIGHTS = "config.json", "model.safetensors"

INTERPOLATION = "bilinear"

MODES: Mapping[Fit, str] = {"crop": "center", "squash": "squash", "pad": "border"}
"""timm's name of each way of making an image square."""

KEPT = ("first_conv", "classifier", "fixed_input_size", "license")
"""Entries of the backbone's own configuration that hold of the classifier too."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearClassifier:
    """A backbone of timm with one linear layer on its pooled features."""

    row: Backbone
    backbone: nn.Module
    weight: Tensor
    """[classes, features], float64, the temperature divided out, as of the bias."""

    bias: Tensor


def write_timm_folder(
    combination: Combination,
    configs: Configs,
    settings: StudySettings,
    *,
    storage_size: int,
    target: Path,
) -> str:
    """Write `config.json` and `model.safetensors`; the model takes normalised images and gives logits.

    Args:
        storage_size: side of the stored square, of which a cropped image's view is the middle.

    Returns:
        timm's name of the architecture.

    Raises:
        ValueError: the model is none that timm can hold; the message says why.
    """
    found = find_linear(combination, configs, settings)
    model = make_timm_model(found, settings)
    fit = common_fit([member.ref for member in combination.members], configs, settings)
    target.mkdir(parents=True)
    own: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    architecture = found.row.timm_name.partition(".")[0]
    size, num_classes = settings.image_size, len(settings.classes)
    mean, std = normalisation(found.backbone)
    content = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": int(found.weight.shape[1]),
        "label_names": list(settings.classes),
        **({"model_args": {"img_size": size}} if has_fixed_size(found.row.timm_name) else {}),
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "interpolation": INTERPOLATION,
            "crop_pct": size / storage_size,
            "crop_mode": MODES[fit],
            "mean": list(mean),
            "std": list(std),
            "num_classes": num_classes,
            "pool_size": None,
            **{name: own[name] for name in KEPT if own.get(name) is not None},
        },
    }
    (target / CONFIG).write_text(to_json(content), encoding="utf-8")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, target / WEIGHTS, metadata={"format": "pt"})
    return architecture


def find_linear(combination: Combination, configs: Configs, settings: StudySettings) -> LinearClassifier:
    """Find the one linear layer that a combination is, on the pooled features of one backbone.

    Raises:
        ValueError: it is more than that; the message says what.
    """
    members = [member for member in combination.members if member.weight]
    row = find_backbone(config_of(members[0].ref, configs).backbone)
    for member in members:
        check_member(config_of(member.ref, configs), row, is_flipped=bool(member.ref.view))
    if len(members) > 1 and combination.pooling is not Pooling.LOGITS:
        raise ValueError("it is an ensemble whose probabilities are averaged")
    loaded = load_members([member.ref for member in members], configs, settings)
    if len({one.network for one in loaded}) > 1:
        raise ValueError("it is an ensemble of several backbones")
    if len(loaded) > 1 and any(one.classifier.depth != 0 for one in loaded):
        raise ValueError("it is an ensemble of backbones that were trained apart")
    layers = [(member.weight, *linear_of(one)) for member, one in zip(members, loaded, strict=True)]
    total = sum(share for share, *_ in layers) * combination.temperature
    with torch.no_grad():
        weight = torch.stack([share * weight for share, weight, _ in layers]).sum(dim=0) / total
        bias = torch.stack([share * bias for share, _, bias in layers]).sum(dim=0) / total
    return LinearClassifier(row=row, backbone=loaded[0].classifier.backbone, weight=weight, bias=bias)


def check_member(config: Any, row: Backbone, *, is_flipped: bool) -> None:
    """Refuse a configuration that is no linear layer on the pooled features of a network of timm.

    Raises:
        ValueError: so it is.
    """
    backbone = find_backbone(config.backbone)
    if backbone.own or not backbone.timm_name:
        raise ValueError(f"its backbone {backbone.name} is no network of timm")
    if backbone.without:
        raise ValueError(f"its backbone {backbone.name} is timm's without {', '.join(backbone.without)}")
    if backbone.key != row.key:
        raise ValueError("it is an ensemble of several backbones")
    if is_flipped:
        raise ValueError("it looks at the mirrored image, too")
    if load_regime(config.regime).uses_neighbours:
        raise ValueError("its head is nearest neighbours")
    if config.head_pooling != "average":
        raise ValueError("its head takes the maps, not the pooled features")
    if config.zero_inputs:
        raise ValueError("it was trained on blank images")


def linear_of(member: Member) -> tuple[Tensor, Tensor]:
    """Weight and bias of a member's head.

    Raises:
        ValueError: it is not one linear layer.
    """
    found = as_linear(member.classifier.head)
    if found is None:
        raise ValueError("its head has hidden layers")
    return found


def make_timm_model(found: LinearClassifier, settings: StudySettings) -> nn.Module:
    """Build timm's model anew, and give it the weights.

    Raises:
        ValueError: its classifier is no single layer on the pooled features.
    """
    import timm

    name = found.row.timm_name
    options: dict[str, Any] = {"img_size": settings.image_size} if has_fixed_size(name) else {}
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=len(settings.classes), **options
    ).eval()
    layer: Any = model.get_classifier()  # type: ignore[operator]
    weight = found.weight.float()
    if isinstance(layer, nn.Conv2d):
        weight = weight[:, :, None, None]
    is_one = isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape == weight.shape
    if not is_one or layer.bias is None:
        raise ValueError(f"timm's {name} has more than one layer behind its pooled features")
    own = set(layer.state_dict(prefix=_name_of(layer, model) + "."))
    state = found.backbone.state_dict()
    problems = model.load_state_dict(state, strict=False)
    if set(problems.missing_keys) != own or problems.unexpected_keys:
        raise ValueError(f"timm's {name} has other layers with a classifier than without")
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(found.bias.float())
    return model


def _name_of(layer: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


def load_timm_program(folder: Path) -> Callable[[Tensor], Tensor]:
    """Load such a folder by timm alone: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes]."""
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))

    def classify(images: Tensor) -> Tensor:
        logits: Tensor = model((images - mean) / std)
        return logits.softmax(dim=1)

    return classify
