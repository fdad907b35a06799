"""Pretrained backbones, loaded once a process and shared by its trials."""

from __future__ import annotations

import copy
from collections import OrderedDict
from weakref import WeakValueDictionary

import torch
from torch import nn

from contract.messages import WeightsSource
from trainables.device.memory import register_reserve
from trainables.model.backbones import Backbone
from trainables.model.cpu.depthwise import quicken_depthwise
from trainables.model.cpu.pooling import keep_gradient_layout
from trainables.model.frozen_prefixes import Ladder, make_ladder
from trainables.model.networks import Pooling, make_backbone
from trainables.model.stages import Depth
from trainables.model.weights import load_weights

KEPT = 4
"""Backbones in memory at once; the one used longest ago goes first."""

_Key = tuple[str, int, Pooling]
_loaded: OrderedDict[_Key, nn.Module] = OrderedDict()
_in_use: WeakValueDictionary[_Key, nn.Module] = WeakValueDictionary()
"""Those that somebody holds: one that was let go of is found again, not loaded beside itself."""
_ladders: dict[tuple[_Key, tuple[Depth, ...]], Ladder] = {}


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
    shared = _loaded[_load(backbone, weights, image_size, device, pooling)]
    return shared if depth == 0 else copy.deepcopy(shared)


def borrow_ladder(
    backbone: Backbone,
    *,
    weights: WeightsSource,
    depths: tuple[Depth, ...],
    image_size: int,
    device: torch.device,
    pooling: Pooling = "average",
) -> Ladder:
    """The frozen prefixes of these depths, of the shared backbone; its weights are those of every trial."""
    key = _load(backbone, weights, image_size, device, pooling)
    if (key, depths) not in _ladders:
        _ladders[key, depths] = make_ladder(_loaded[key], depths, image_size=image_size)
    return _ladders[key, depths]


def drop_backbones() -> bool:
    """Let go of all backbones, so that only those in use take memory; False: there was none."""
    had_some = bool(_loaded)
    _loaded.clear()
    _ladders.clear()
    return had_some


register_reserve(drop_backbones)


def _load(
    backbone: Backbone, weights: WeightsSource, image_size: int, device: torch.device, pooling: Pooling
) -> _Key:
    key = (f"{backbone.key} {weights.identity} {device}", image_size, pooling)
    if key not in _loaded and (held := _in_use.get(key)) is not None:
        _loaded[key] = held
    if key not in _loaded:
        module = make_backbone(backbone, image_size=image_size, pooling=pooling)
        load_weights(module, weights)
        if device.type == "cpu":
            quicken_depthwise(module)
            keep_gradient_layout(module)
        module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        _loaded[key] = _in_use[key] = module.to(device)
    _loaded.move_to_end(key)
    while len(_loaded) > KEPT:
        dropped, _ = _loaded.popitem(last=False)
        for ladder in [ladder for ladder in _ladders if ladder[0] == dropped]:
            del _ladders[ladder]
    return key
