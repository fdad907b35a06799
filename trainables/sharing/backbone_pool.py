"""Pretrained backbones, loaded once a process and shared by its trials."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn

from trainables.model.backbones import Backbone
from trainables.model.depthwise import quicken_depthwise
from trainables.model.networks import Pooling, make_backbone
from trainables.model.stages import Depth
from trainables.model.weights import WeightsSource, load_weights

KEPT = 4
"""Backbones in memory at once; the one used longest ago goes first."""

_loaded: OrderedDict[tuple[str, int, Pooling], nn.Module] = OrderedDict()


def borrow_backbone(
    backbone: Backbone,
    *,
    weights: WeightsSource,
    depth: Depth,
    image_size: int,
    device: torch.device,
    pooling: Pooling = "average",
) -> nn.Module:
    """A backbone with its weights on the device: the shared one where nothing of it trains, else a copy."""
    key = (f"{backbone.key} {weights.identity} {device}", image_size, pooling)
    if key not in _loaded:
        module = make_backbone(backbone, image_size=image_size, pooling=pooling)
        load_weights(module, weights)
        if device.type == "cpu":
            quicken_depthwise(module)
        _loaded[key] = module.eval().requires_grad_(False).to(device)
    _loaded.move_to_end(key)
    while len(_loaded) > KEPT:
        _loaded.popitem(last=False)
    return _loaded[key] if depth == 0 else copy.deepcopy(_loaded[key])
