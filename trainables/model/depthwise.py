"""Wide depthwise convolutions with a faster gradient of their weights on a CPU.

oneDNN has a depthwise kernel for the gradient of 3 x 3 weights only. Wider ones go through its general
grouped kernel, which blocks every group to 16 x 16 channels: 29 MB for 1,152 weights of 5 x 5, and a third of
the time of a fine-tuning step of an EfficientNet. A wide kernel is a union of 3 x 3 windows, and the gradient
of each window is that of a 3 x 3 convolution of the shifted input: the same sums, in the fast kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_WINDOW = 3
_LARGEST_MAP = 16 * 16
"""Pixels of a map up to which windows were measured to be faster: 2.5 times at 4 x 4, 1.5 times at 8 x 8."""


class _WideDepthwise(torch.autograd.Function):
    """A depthwise convolution of [B, C, H, W] with a step of 1, without bias or dilation."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return functional.conv2d(images, weight, None, 1, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = _backward(gradient, images, weight, ctx.padding, wanted=0)
        return of_images, _weight_gradient(gradient, images, weight, ctx.padding), None


def _weight_gradient(gradient: Tensor, images: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """Window by window; where windows overlap, they give the same numbers."""
    padded = functional.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    result = torch.empty_like(weight)
    height, width = (side - 1 + _WINDOW for side in gradient.shape[2:])
    for top in _offsets(weight.shape[2]):
        for left in _offsets(weight.shape[3]):
            shifted = padded[:, :, top : top + height, left : left + width]
            shifted = shifted.contiguous(memory_format=torch.channels_last)
            window = (slice(None), slice(None), slice(top, top + _WINDOW), slice(left, left + _WINDOW))
            part = weight[window].contiguous()
            result[window] = _backward(gradient, shifted, part, [0, 0], wanted=1)
    return result


def _offsets(size: int) -> list[int]:
    """Where windows begin that together cover a kernel of this size."""
    return sorted({min(start, size - _WINDOW) for start in range(0, size, _WINDOW)})


def _backward(gradient: Tensor, images: Tensor, weight: Tensor, padding: list[int], *, wanted: int) -> Tensor:
    """The gradient of the images (0) or of the weight (1)."""
    mask = [wanted == index for index in range(3)]
    gradients = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), mask
    )
    result: Tensor = gradients[wanted]
    return result


class WideDepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with the gradient above, where small maps are trained on."""

    def forward(self, input: Tensor) -> Tensor:
        if not _gains(input, self.weight):
            return super().forward(input)
        assert not isinstance(self.padding, str)
        result: Tensor = _WideDepthwise.apply(input, self.weight, list(self.padding))
        return result


def quicken_depthwise(backbone: nn.Module) -> None:
    """Give the wide depthwise convolutions of a backbone the faster gradient, where the CPU gains by it.

    Parameters, names and outputs stay; gradients differ by the order of their sums.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":  # measured there only
        return
    for module in backbone.modules():
        if type(module) is nn.Conv2d and _is_wide_depthwise(module):
            module.__class__ = WideDepthwiseConv2d


def _is_wide_depthwise(module: nn.Conv2d) -> bool:
    return (
        module.groups == module.in_channels == module.out_channels
        and min(module.kernel_size) > _WINDOW
        and module.bias is None
        and module.dilation == module.stride == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _gains(images: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and images[0, 0].numel() <= _LARGEST_MAP
        and not torch.compiler.is_compiling()
    )
