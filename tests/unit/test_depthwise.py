"""The faster gradient of wide depthwise convolutions is the same gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainables.model.depthwise import WideDepthwiseConv2d, quicken_depthwise


def _gradients(convolution: nn.Conv2d, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.clone().requires_grad_()
    output = convolution(images)
    output.backward(torch.sin(torch.arange(output.numel())).view_as(output))
    assert images.grad is not None and convolution.weight.grad is not None
    return images.grad, convolution.weight.grad


@pytest.mark.parametrize("kernel", [4, 5, 7, (5, 7)])
@pytest.mark.parametrize("side", [4, 9, 16])
@pytest.mark.parametrize("padding", [0, 2])
def test_gradients_are_those_of_the_plain_convolution(
    kernel: int | tuple[int, int], side: int, padding: int
) -> None:
    if side < max(torch.tensor(kernel).max().item(), 1) - 2 * padding:
        pytest.skip("no output")
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, padding=padding, groups=6, bias=False)
    faster = copy.deepcopy(plain)
    faster.__class__ = WideDepthwiseConv2d
    images = torch.randn(3, 6, side, side, generator=generator)

    expected, found = _gradients(plain, images), _gradients(faster, images)

    assert torch.equal(plain(images), faster(images))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_only_wide_depthwise_convolutions_are_changed_and_names_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 8, 5, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, stride=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, groups=8, bias=True),
    )
    names = list(network.state_dict())

    quicken_depthwise(network)

    has_gain = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert [type(module) is WideDepthwiseConv2d for module in network] == [has_gain, *[False] * 4]
    assert list(network.state_dict()) == names
