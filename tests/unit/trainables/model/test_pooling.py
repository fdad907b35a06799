"""The gradient of average pooling comes in the layout of the maps, with the same numbers."""

from __future__ import annotations

import copy

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from trainables.model.cpu.gradients import keep_gradient_layout


def _gradient(network: nn.Module, maps: Tensor) -> Tensor:
    found: list[Tensor] = []
    maps = maps.clone(memory_format=torch.channels_last).requires_grad_()
    doubled = maps * 2
    doubled.register_hook(found.append)
    output = network(doubled)
    output.backward(torch.arange(output.numel(), dtype=torch.float32).view_as(output))
    return found[0]


def test_the_gradient_is_channels_last_and_unchanged() -> None:
    plain = nn.Sequential(SelectAdaptivePool2d(flatten=True), nn.Linear(8, 3))
    kept = copy.deepcopy(plain)
    keep_gradient_layout(kept)
    maps = torch.rand(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))

    expected, found = _gradient(plain, maps), _gradient(kept, maps)

    assert torch.equal(expected, found)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(plain(maps), kept(maps))
