"""Builds the network of a backbone, from timm or from an own file, and says how to normalise and decay it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection
from fnmatch import fnmatch
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from trainables.model.backbones import Backbone, check_image_size

Pooling = Literal["average", "flatten"]


def make_backbone(
    backbone: Backbone, *, image_size: int | None = None, pooling: Pooling = "average", seed: int = 0
) -> nn.Module:
    """Build a network without its classifier, [B, 3, H, W] -> features, with weights drawn from the seed.

    The image size matters to networks with position embeddings or attention windows, and to features that
    are flattened; default: the one the network was trained on.

    Args:
        pooling: average = the network's own, which gives [B, features]; flatten = none: the output is maps,
            which the head flattens.

    Raises:
        ValueError: an image size that the network cannot take.
    """
    side = image_size or backbone.image_size
    check_image_size(backbone, side)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _make_own(backbone, side) if backbone.own else _make_timm(backbone, image_size)
    for name in backbone.without:
        module.set_submodule(name, nn.Identity())
    if pooling == "flatten":
        module.reset_classifier(0, "")  # type: ignore[operator]
    if pooling == "flatten" or backbone.own or backbone.without:
        module.output_width = _output_width(module, side)  # type: ignore[assignment]
    module.built_for = (image_size, pooling)  # type: ignore[assignment]
    return module


def _make_own(backbone: Backbone, image_size: int) -> nn.Module:
    maker = importlib.import_module(f"trainables.model.own.{backbone.own}")
    module: nn.Module = maker.make(*backbone.options, image_size=image_size)
    return module


def _make_timm(backbone: Backbone, image_size: int | None) -> nn.Module:
    import timm

    fixed_size = image_size is not None and has_fixed_size(backbone.timm_name)
    options: dict[str, Any] = {"img_size": image_size} if fixed_size else {}
    module: nn.Module = timm.create_model(backbone.timm_name, pretrained=False, num_classes=0, **options)
    return module


@cache
def has_fixed_size(timm_name: str) -> bool:
    """Whether the network is built for one image size (position embeddings, attention windows)."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return "img_size" in inspect.signature(type(model).__init__).parameters


def _output_width(module: nn.Module, image_size: int) -> int:
    """Width of the flattened output, found with a blank image."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    mode = module.training
    with torch.no_grad():
        features = module.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    module.train(mode)
    return int(features[0].numel())


def normalisation(module: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], of the images a backbone was trained on."""
    config = module.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def undecayed_names(backbone: nn.Module) -> frozenset[str]:
    """Names of the backbone's parameters that weight decay must leave alone.

    These are biases, norms and layer scales, of one dimension; what a model of timm lists itself, such
    as tables of relative positions and the layers that compute them; and whatever is not the weight of a
    layer: position embeddings, class tokens, temperatures.
    """
    listed = _listed_by_model(backbone)
    return frozenset(
        name
        for name, parameter in backbone.named_parameters()
        if parameter.dim() <= 1
        or not name.endswith("weight")
        or any(fnmatch(name, pattern) for pattern in listed)
    )


def _listed_by_model(backbone: Any) -> Collection[str]:
    """Names, or patterns of names, that a timm model lists; some models have no list."""
    ask = getattr(backbone, "no_weight_decay", None)
    names: Collection[str] = ask() if ask is not None else ()
    return names
