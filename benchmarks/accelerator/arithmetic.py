"""Ways of computing that are compared: number format, memory layout of the maps, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from trainables.activations import inputs
from trainables.device import accelerator
from trainables.model import classifier
from trainables.training import loop

Precision = Literal["bfloat16", "tf32", "float32"]
"""Number format of products: bfloat16 by autocast, float32 rounded to TensorFloat32, or float32 as it is."""

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "tf32", "float32")


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """One way of computing."""

    precision: Precision
    channels_last: bool = True
    compiled: bool = False

    @property
    def name(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {layout}" + (", compiled" if self.compiled else "")


def of_trials(device: torch.device) -> Arithmetic:
    """The arithmetic that trials use on a device."""
    in_bfloat16 = accelerator.number_format(device) == torch.bfloat16
    return Arithmetic(precision="bfloat16" if in_bfloat16 else "float32")


def variants(device: torch.device) -> list[Arithmetic]:
    """The trials' own arithmetic first; each of the others differs from it in one thing."""
    own = of_trials(device)
    on_gpu = device.type == "cuda"
    has_bfloat16 = on_gpu and own.precision == "bfloat16"
    precisions = [precision for precision in PRECISIONS if has_bfloat16 and precision != own.precision]
    return [
        own,
        *(Arithmetic(precision=precision) for precision in precisions),
        Arithmetic(precision=own.precision, channels_last=False),
        *([Arithmetic(precision=own.precision, compiled=True)] if on_gpu else []),
    ]


@contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """Compute in a precision within this context, by the project's own switch and PyTorch's of TF32."""
    chosen = torch.bfloat16 if precision == "bfloat16" else torch.float32
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    with ExitStack() as stack:
        for module in (accelerator, inputs):
            stack.enter_context(patch.object(module, "number_format", lambda _: chosen))
        inputs.describe_arithmetic.cache_clear()
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        try:
            yield
        finally:
            for backend, allowed in zip(backends, before, strict=True):
                backend.allow_tf32 = allowed
            inputs.describe_arithmetic.cache_clear()


@contextmanager
def computing(arithmetic: Arithmetic) -> Iterator[None]:
    """Compute in this way within this context.

    Compiling is a setting of the study; `lay_out` sets a network's own layout.
    """
    with ExitStack() as stack:
        stack.enter_context(precision_of(arithmetic.precision))
        if not arithmetic.channels_last:
            stack.enter_context(patch.object(classifier, "channels_last", _channels_first))
            stack.enter_context(patch.object(loop, "move", _move))
        yield


def lay_out(network: classifier.Classifier, arithmetic: Arithmetic) -> None:
    """Put the weights of a network's convolutions in the layout."""
    layout = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
    network.to(memory_format=layout)


def _channels_first(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def _move(tensor: Tensor, device: str) -> Tensor:
    return tensor.to(device, non_blocking=True).contiguous()
