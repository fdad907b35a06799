"""The head: what turns a backbone's features into one logit a class."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from contract.trial_config import hidden_widths


def make_head(
    in_features: int,
    num_classes: int,
    *,
    width: int | str = 0,
    dropout: float = 0.0,
    batch_norm: bool = False,
    zero_init: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """Batch norm, hidden layers each with its dropout, and the layer of the classes; drawn from the seed.

    Features that come as maps or tokens are flattened first. Without a hidden layer, dropout acts on them.

    Args:
        width: of the hidden layers, as `TrialConfig.head_width` has it; 0 = a linear head.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if batch_norm:
        layers["norm"] = nn.BatchNorm1d(in_features)
    widths = hidden_widths(width)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for number, units in enumerate(widths, start=1):
            layers[f"hidden{number}"] = nn.Linear(in_features, units)
            layers[f"activation{number}"] = nn.ReLU()
            if dropout:
                layers[f"dropout{number}"] = nn.Dropout(dropout)
            in_features = units
        if dropout and not widths:
            layers["dropout"] = nn.Dropout(dropout)
        output = nn.Linear(in_features, num_classes)
    if zero_init:
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
    layers["output"] = output
    return nn.Sequential(layers)
