"""Layers with faster gradients on a CPU: depthwise convolutions and average pooling.

oneDNN's fast kernel for the gradient of depthwise weights stops at three columns, and at small maps that it
has to pad. Wider kernels go through its general grouped one, which blocks every group to 16 x 16 channels:
29 MB for 1,152 weights of 5 x 5, and a third of the time of a fine-tuning step of an EfficientNet. A wide
kernel is a union of windows of three columns, and the gradient of each window is that of a narrow convolution
of the shifted input: the same sums, in the fast kernel. With a step of 1 the gradient of the images is itself
a convolution, of the flipped kernel, and oneDNN's forward kernel takes half the time of the one it has for
this gradient.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from timm.layers import Conv2dSame
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_COLUMNS = 3
"""Columns of a window: the most that the fast kernel takes."""

_Pair: TypeAlias = tuple[int, ...]
"""Rows and columns."""


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of [B, C, H, W] without dilation, with the gradients described above."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, padding: _Pair
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _image_gradient(gradient, images, weight, ctx.stride, ctx.padding) if of_images else None,
            _weight_gradient(gradient, images, weight, ctx.stride, ctx.padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def _image_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: _Pair, padding: _Pair
) -> Tensor:
    inverse = tuple(size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True))
    if stride != (1, 1) or min(inverse) < 0:
        return _backward(gradient, images, weight, stride, padding, wanted=0)
    return functional.conv2d(gradient, weight.flip(2, 3), None, 1, inverse, groups=len(weight))


def _weight_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: _Pair, padding: _Pair
) -> Tensor:
    """Compute the gradient window by window; where windows overlap, they give the same numbers."""
    height, width = weight.shape[2:]
    if max(height, width) <= _COLUMNS:
        return _backward(gradient, images, weight, stride, padding, wanted=1)
    columns = min(width, _COLUMNS)
    # All that a window's kernel meets of the padded images: written once, but for the columns.
    rows, across = (
        (outputs - 1) * step + size
        for outputs, step, size in zip(gradient.shape[2:], stride, (height, columns), strict=True)
    )
    seen = torch.empty((*images.shape[:2], rows, across), memory_format=torch.channels_last)
    inner, source = _overlap(-padding[0], rows, images.shape[2])
    seen[:, :, : inner.start].zero_()
    seen[:, :, inner.stop :].zero_()
    within, images = seen[:, :, inner], images[:, :, source]
    result = torch.empty_like(weight)
    for left in sorted({min(start, width - columns) for start in range(0, width, _COLUMNS)}):
        inner, source = _overlap(left - padding[1], across, images.shape[3])
        within[..., : inner.start].zero_()
        within[..., inner.stop :].zero_()
        within[..., inner].copy_(images[..., source])
        part = weight[..., left : left + columns].contiguous()
        result[..., left : left + columns] = _backward(gradient, seen, part, stride, (0, 0), wanted=1)
    return result


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Overlap of start..start+length with 0..size, as a slice of the first and a slice of the second."""
    first, last = max(0, start), max(0, min(size, start + length))
    return slice(first - start, max(first, last) - start), slice(first, max(first, last))


def _backward(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, *, wanted: int
) -> Tensor:
    """Compute torch's own gradient of the images (`wanted` 0) or of the weight (1)."""
    mask = [wanted == index for index in range(3)]
    gradients = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), mask
    )
    result: Tensor = gradients[wanted]
    return result


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with the faster gradients."""

    def forward(self, input: Tensor) -> Tensor:
        if not _gains(input):
            return super().forward(input)
        assert not isinstance(self.padding, str)
        return _convolve(self, input, self.padding)


class DepthwiseConv2dSame(Conv2dSame):  # type: ignore[misc]  # timm has no types
    """timm's convolution, padded as in TensorFlow, with the faster gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if not _gains(x):
            result: Tensor = super().forward(x)
            return result
        return _convolve(self, pad_same(x, list(self.kernel_size), list(self.stride)), (0, 0))


def _convolve(module: nn.Conv2d, images: Tensor, padding: _Pair) -> Tensor:
    result: Tensor = _Depthwise.apply(images, module.weight, module.bias, module.stride, padding)
    return result


def _gains(images: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


_FASTER: dict[type[nn.Conv2d], type[nn.Conv2d]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def quicken_depthwise(backbone: nn.Module) -> None:
    """Give the depthwise convolutions of a backbone the faster gradients, where the CPU gains from them.

    Parameters, names and outputs stay; gradients differ by the order of their sums.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":  # measured there only
        return
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and type(module) in _FASTER and _is_depthwise(module):
            module.__class__ = _FASTER[type(module)]


def _is_depthwise(module: nn.Conv2d) -> bool:
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class _ChannelsLastGradient(torch.autograd.Function):
    """The identity, whose gradient is channels-last in memory."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.view_as(maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


def keep_gradient_layout(backbone: nn.Module) -> None:
    """Make the gradient of a backbone's average pooling channels-last, as its maps are.

    By default it is one number expanded over each map, which becomes channels-first. A batch norm that meets
    both layouts takes five times as long on a CPU: a tenth of a step with one stage of an EfficientNet
    unfrozen.
    """
    for module in backbone.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d | FastAdaptiveAvgPool):
            module.register_forward_pre_hook(_keep_layout)


def _keep_layout(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    maps, *others = inputs
    if not torch.is_grad_enabled() or not maps.requires_grad or torch.compiler.is_compiling():
        return None
    return (_ChannelsLastGradient.apply(maps), *others)
