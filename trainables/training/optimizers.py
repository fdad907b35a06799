"""Optimizers over groups with their own peak rate and decay, and the moving average of what they train."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn, optim


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
    """Parameter groups of the head and of each level of the backbone; norms and biases are never decayed.

    Args:
        undecayed: further parameters of the backbone that are never decayed.
        layer_decay: learning-rate factor from each level to the next lower one, the head being at 0.
        levels: level of each parameter of the backbone, 1 at the top; used by `layer_decay` only.
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
    """Make an optimizer by name; it takes a step in one fused kernel where torch has one."""
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
    assert name == "rmsprop", f"TrialConfig lets no {name!r} through"
    return optim.RMSprop(groups, momentum=momentum)


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
    """Set every group's rate to its own peak times the multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier


class WeightAverage:
    """Exponential moving average of tensors that an optimizer changes in place: what `ema_decay` turns on."""

    def __init__(self, live: Mapping[str, Tensor], *, decay: float) -> None:
        """Start from the present values."""
        self.live, self.decay, self.updates = dict(live), decay, 0
        self.average = {name: tensor.clone() for name, tensor in live.items()}
        self._floats = [name for name, tensor in live.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Count an optimizer's step in. The first updates decay faster, or the start would linger."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [self.average[name] for name in self._floats]
        torch._foreach_lerp_(averages, [self.live[name] for name in self._floats], 1 - decay)
        for name in self.live.keys() - set(self._floats):
            self.average[name].copy_(self.live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the live tensors hold the average inside the context."""
        kept = {name: tensor.clone() for name, tensor in self.live.items()}
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self.live.items():
            tensor.copy_(values[name])

    def state(self) -> dict[str, object]:
        """The arguments of `load_state`."""
        return {"average": self.average, "updates": self.updates}

    def load_state(self, average: Mapping[str, Tensor], *, updates: int) -> None:
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
