"""The head: what turns a backbone's features into one logit a class."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def make_head(
    in_features: int,
    num_classes: int,
    *,
    width: int = 0,
    dropout: float = 0.0,
    batch_norm: bool = False,
    zero_init: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """A linear head, or one with a hidden layer of `width` units; its weights are drawn from the seed."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if width:
            layers["hidden"] = nn.Linear(in_features, width, bias=not batch_norm)
        if batch_norm:
            layers["norm"] = nn.BatchNorm1d(width or in_features)
        if width:
            layers["activation"] = nn.ReLU()
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        output = nn.Linear(width or in_features, num_classes)
    if zero_init:
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
    layers["output"] = output
    return nn.Sequential(layers)
