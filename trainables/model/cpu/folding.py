"""Folds frozen batch norms into the convolutions before them.

It takes a sixth off a frozen EfficientNet's time on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainables.model.cpu.gradients import DepthwiseConv2d, DepthwiseConv2dSame

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame, DepthwiseConv2d, DepthwiseConv2dSame)
"""No subclasses: those that rescale their weights at every use cannot take a norm over."""
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest output. 2e-6 was seen; a wrong fold is far off."""


class Fold(NamedTuple):
    """A convolution and the batch norm after it, by name, and the replacement of each."""

    convolution: str
    norm: str
    fused: nn.Module
    activation: nn.Module


@torch.no_grad()
def find_folds(network: nn.Module, images: Tensor) -> list[Fold]:
    """Find the batch norms that can be folded into convolutions of a backbone, or of a part of it.

    In eval mode a batch norm scales and shifts each channel, which a convolution's weights and bias can do;
    the output stays up to rounding. Which belong together is observed while the images pass through, and the
    folded network is tried on them. On an accelerator none are folded: its rounded weights would give other
    numbers.
    """
    has_norms = any(type(module) in _NORMS for module in network.modules())
    if not has_norms or images.device.type != "cpu" or images.dtype != torch.float32:
        return []
    pairs, expected = _find_pairs(network, images)
    folds = []
    for name, norm_name in pairs:
        convolution: Any = network.get_submodule(name)
        norm: Any = network.get_submodule(norm_name)
        fused = fuse_conv_bn_eval(convolution, norm)
        activation = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
        folds.append(Fold(name, norm_name, fused, activation))
    if not folds:
        return []
    found = fold(network, folds)(images)
    is_near = (expected - found).abs().max() <= _TOLERANCE * expected.abs().max()
    return folds if is_near else []


def folded(network: nn.Module, images: Tensor) -> nn.Module:
    """Find a network's folds with these images, and return it with all of them."""
    return fold(network, find_folds(network, images))


def fold(part: nn.Module, folds: Sequence[Fold]) -> nn.Module:
    """Return a part of a backbone with the folds that lie wholly in it; the original is not changed."""
    inside = {name for name, _ in part.named_modules()}
    replacements: dict[str, nn.Module] = {}
    for each in folds:
        if {each.convolution, each.norm} <= inside:
            replacements |= {each.convolution: each.fused, each.norm: each.activation}
    return _replaced(part, replacements) if replacements else part


def _replaced(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module with submodules replaced by name; the modules on the way to them are copied."""
    clone: nn.Module = object.__new__(type(module))
    clone.__dict__ = module.__dict__ | {"_modules": dict(module._modules)}
    for name, child in module._modules.items():
        below = {
            path.removeprefix(f"{name}."): new
            for path, new in replacements.items()
            if path.startswith(f"{name}.")
        }
        if name in replacements:
            clone._modules[name] = replacements[name]
        elif below and child is not None:
            clone._modules[name] = _replaced(child, below)
    return clone


def _find_pairs(network: nn.Module, inputs: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Find (convolution, batch norm) names where the norm takes the convolution's output; also the output.

    Modules that are called more than once are left out.
    """
    made: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}
    repeated: set[str] = set()

    def note(seen: dict[str, Tensor], name: str, tensor: Tensor) -> None:
        if name in seen:
            repeated.add(name)
        seen[name] = tensor

    hooks = []
    for name, module in network.named_modules():
        if type(module) in _CONVOLUTIONS:
            hooks.append(
                module.register_forward_hook(lambda _, __, output, name=name: note(made, name, output))
            )
        elif type(module) in _NORMS and not module.training:
            hooks.append(
                module.register_forward_pre_hook(lambda _, given, name=name: note(taken, name, given[0]))
            )
    try:
        output: Tensor = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    maker = {id(tensor): name for name, tensor in made.items()}  # all still alive, so no number comes twice
    pairs = [(maker[id(tensor)], norm) for norm, tensor in taken.items() if id(tensor) in maker]
    return [pair for pair in pairs if repeated.isdisjoint(pair)], output
