"""Chooses the device that torch computes on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Find the device of a name: "cpu", "cuda", "cuda:1" or "auto", a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: cpu, cuda, cuda:1 or auto") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= num_gpus):
        raise ValueError(f"--device {name}: there is no such device here, but {num_gpus} GPUs and the CPU")
    return device
