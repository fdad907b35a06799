"""The faster gradients of depthwise convolutions are the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from trainables.model.cpu.gradients import DepthwiseConv2d, DepthwiseConv2dSame, quicken_depthwise

CHANNELS = 6


def _gradients(convolution: nn.Conv2d, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_()
    output = convolution(images)
    output.backward(torch.sin(torch.arange(output.numel())).view_as(output))
    gradients = [images.grad, *(parameter.grad for parameter in convolution.parameters())]
    return [gradient for gradient in gradients if gradient is not None]


def _compare(plain: nn.Conv2d, faster: nn.Conv2d, images: Tensor) -> None:
    expected, found = _gradients(plain, images), _gradients(faster, images)

    assert torch.equal(plain(images), faster(images))
    assert len(found) == len(expected) == 1 + len(list(plain.parameters()))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 7, (5, 7), (7, 2), (1, 5)])
@pytest.mark.parametrize("side", [4, 9, 16])
@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (2, 1), (3, 1), (0, 2), (2, 2), (1, 3)])
def test_gradients_are_those_of_the_plain_convolution(
    kernel: int | tuple[int, int], side: int, padding: int, stride: int
) -> None:
    if side + 2 * padding < max(kernel if isinstance(kernel, tuple) else (kernel,)):
        pytest.skip("no output")
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=CHANNELS)
    faster = copy.deepcopy(plain)
    faster.__class__ = DepthwiseConv2d

    _compare(plain, faster, torch.randn(3, CHANNELS, side, side, generator=generator))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_so_are_those_of_one_padded_as_tensorflow_does(stride: int, side: int) -> None:
    plain = Conv2dSame(CHANNELS, CHANNELS, 5, stride, groups=CHANNELS, bias=False)
    faster = copy.deepcopy(plain)
    faster.__class__ = DepthwiseConv2dSame

    _compare(plain, faster, torch.randn(3, CHANNELS, side, side, generator=torch.Generator().manual_seed(0)))


def test_a_frozen_convolution_passes_the_gradient_on() -> None:
    plain = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS).requires_grad_(False)
    faster = copy.deepcopy(plain)
    faster.__class__ = DepthwiseConv2d
    images = torch.randn(2, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))

    [expected], [found] = _gradients(plain, images), _gradients(faster, images)

    torch.testing.assert_close(expected, found, rtol=1e-5, atol=1e-5)


def test_only_depthwise_convolutions_are_changed_and_names_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 8, 5, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, 2, groups=8, bias=True),
        nn.Conv2d(8, 8, 5, groups=4, bias=False),
        nn.Conv2d(8, 8, 3, dilation=2, groups=8),
        nn.Conv2d(8, 16, 5, groups=8),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
    )
    names = list(network.state_dict())

    quicken_depthwise(network)

    has_gain = torch.backends.cpu.get_cpu_capability() == "AVX512"
    changed = [type(module) is DepthwiseConv2d for module in network]
    assert changed == [has_gain, has_gain, False, False, False, False]
    assert list(network.state_dict()) == names
