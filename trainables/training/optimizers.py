"""Optimizers: AdamW, Adam, SGD and RMSprop over groups with their own peak rate and decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    head_l2: float = 0.0,
    layer_decay: float = 1.0,
    levels: Mapping[str, int] | None = None,
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Head, and backbone by level, each with and without decay: norms and biases are never decayed.

    Args:
        undecayed: further parameters of the backbone that are not.
        layer_decay: learning-rate factor from each level to the next lower one, the head being at 0.
        levels: of the backbone's parameters, counted down from 1 at the top; only `layer_decay` asks.
    """
    groups = _by_decay(head, learning_rate=learning_rate, weight_decay=weight_decay, part="head", l2=head_l2)
    known = levels if levels is not None and layer_decay != 1 else dict.fromkeys(backbone, 0)
    for level in sorted({known[name] for name in backbone}):
        rate = learning_rate * backbone_learning_rate_factor * layer_decay**level
        members = {name: value for name, value in backbone.items() if known[name] == level}
        groups += _by_decay(
            members, learning_rate=rate, weight_decay=weight_decay, part="backbone", undecayed=undecayed
        )
    return groups


def _by_decay(
    parameters: Mapping[str, nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    part: str,
    l2: float = 0.0,
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:
    shrinks = {name: value.dim() > 1 and name not in undecayed for name, value in parameters.items()}
    decayed = [value for name, value in parameters.items() if shrinks[name]]
    kept = [value for name, value in parameters.items() if not shrinks[name]]
    shared = {"lr": learning_rate, "peak_lr": learning_rate, "part": part}
    groups = [
        {**shared, "params": decayed, "weight_decay": weight_decay, "l2": l2},
        {**shared, "params": kept, "weight_decay": 0.0, "l2": 0.0},
    ]
    return [group for group in groups if group["params"]]


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


def add_penalty(optimizer: optim.Optimizer) -> None:
    """Add the gradient of each group's L2 penalty, `l2` times the sum of squares, to the loss's gradients.

    The penalty is a term of the loss, so it is added before gradients are clipped, and it means the same to
    all optimizers; AdamW's own decay does not go through the gradients.
    """
    for group in optimizer.param_groups:
        if not group["l2"]:
            continue
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach(), alpha=2 * group["l2"])


def set_learning_rate(optimizer: optim.Optimizer, multiplier: float) -> None:
    """Scale every group's own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
