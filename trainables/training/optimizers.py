"""Optimizers: AdamW, Adam, SGD and RMSprop over groups with their own peak rate and decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn, optim

NAMES = ("adam", "adamw", "rmsprop", "sgd")


def names() -> list[str]:
    """All optimizers, sorted."""
    return list(NAMES)


def make_parameter_groups(
    *,
    head: Mapping[str, nn.Parameter],
    backbone: Mapping[str, nn.Parameter],
    learning_rate: float,
    backbone_learning_rate_factor: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Head and backbone, each with and without decay: norms and biases are never decayed."""
    groups: list[dict[str, Any]] = []
    for part, parameters, factor in (
        ("head", head, 1.0),
        ("backbone", backbone, backbone_learning_rate_factor),
    ):
        peak = learning_rate * factor
        decayed = [parameter for parameter in parameters.values() if parameter.dim() > 1]
        kept = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
        for members, decay in ((decayed, weight_decay), (kept, 0.0)):
            if members:
                group = {"params": members, "lr": peak, "peak_lr": peak, "weight_decay": decay, "part": part}
                groups.append(group)
    return groups


def make_optimizer(
    name: str, groups: list[dict[str, Any]], *, momentum: float = 0.9, nesterov: bool = False
) -> optim.Optimizer:
    """An optimizer over the groups, in one fused kernel a step where torch has one."""
    from torch import optim

    fused = name != "rmsprop" and all(
        parameter.is_floating_point() and parameter.device.type in ("cuda", "cpu")
        for group in groups
        for parameter in group["params"]
    )
    if name == "adamw":
        return optim.AdamW(groups, fused=fused)
    if name == "adam":
        return optim.Adam(groups, fused=fused)
    if name == "sgd":
        return optim.SGD(groups, momentum=momentum, nesterov=nesterov and momentum > 0, fused=fused)
    if name == "rmsprop":
        return optim.RMSprop(groups, momentum=momentum)
    raise ValueError(f"optimizer must be one of {', '.join(NAMES)}, got {name!r}")


def set_learning_rate(optimizer: optim.Optimizer, multiplier: float) -> None:
    """Scale every group's own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
