"""What computes a frozen prefix's output: part of its key in the cache, since the numbers depend on it."""

from __future__ import annotations

from functools import cache
from importlib import metadata

import torch

from trainables.device.accelerator import number_format
from trainables.images import file as image_file

PREFIX_REVISION = 1
"""Of this project's own code between a stored image and a prefix's output: augmentation, folded batch norms,
depthwise convolutions. To be raised whenever a change there changes numbers."""

_LIBRARIES = ("timm", "torchvision")


@cache
def describe_arithmetic(device_type: str) -> str:
    """The device, the number format, the libraries and our own code that the numbers depend on.

    A new version of a library therefore computes everything anew, which takes as long as the first time.
    """
    device = torch.device(device_type)
    parts = [
        device.type,
        str(number_format(device)).removeprefix("torch."),
        *_float32_products(device),
        f"torch {torch.__version__}",
        *(f"{name} {_version(name)}" for name in _LIBRARIES),
        f"prefix {PREFIX_REVISION}",
        f"images {image_file.FORMAT}",
    ]
    return ", ".join(parts)


def _float32_products(device: torch.device) -> list[str]:
    """Whether a GPU shortens what float32 products take in to TensorFloat32; empty for a CPU."""
    if device.type == "cpu":
        return []
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return [
        f"products in {'tf32' if products else 'float32'}",
        f"convolutions in {'tf32' if convolutions else 'float32'}",
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
