"""Heads: they turn a backbone's features into a logit for each class, by layers or by nearest neighbours."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.trial_config import hidden_widths

TIE = 1e-3
"""Extra weight of the nearest neighbour's vote over the last one's: ties go to the nearer class."""


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
    """Build batch norm, hidden layers each with dropout, and the output layer; drawn from the seed.

    Features that come as maps or tokens are flattened first. Without a hidden layer, dropout acts on them.

    Args:
        width: widths of the hidden layers, as in `TrialConfig.head_width`; 0 = a linear head.
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


class NeighbourHead(nn.Module):
    """k-nearest-neighbour head: features [B, F] -> logarithms of each class's share of the votes.

    It has no weights, but the training images' features. One extra vote is spread over all classes.
    """

    features: Tensor
    labels: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        num_images: int,
        num_neighbours: int,
        distance: Literal["cosine", "euclidean"],
    ) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(num_images, in_features))
        self.register_buffer("labels", torch.zeros(num_images, dtype=torch.int64))
        self.num_classes, self.num_neighbours, self.distance = num_classes, num_neighbours, distance

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Store the features of the training images, [N, F], and their classes, int64 [N]."""
        self.features.copy_(self._prepare(features))
        self.labels.copy_(labels)

    def forward(self, features: Tensor) -> Tensor:
        """Let the nearest training images vote; in train mode without the very nearest, the image itself.

        With fewer images than neighbours asked for, all of them vote.
        """
        with torch.autocast(features.device.type, enabled=False):  # half precision confuses near neighbours
            closeness = self._closeness(self._prepare(features))
        skipped = int(self.training)
        count = min(self.num_neighbours, len(self.labels) - skipped)
        nearest = closeness.topk(count + skipped, dim=1).indices[:, skipped:]
        weights = torch.linspace(1 + TIE, 1, count, device=features.device)
        votes = functional.one_hot(self.labels[nearest], self.num_classes).mul(weights[:, None]).sum(1)
        return ((votes + 1 / self.num_classes) / (weights.sum() + 1)).log()

    def _prepare(self, features: Tensor) -> Tensor:
        flat = features.flatten(1).float()
        return functional.normalize(flat) if self.distance == "cosine" else flat

    def _closeness(self, features: Tensor) -> Tensor:
        products = features @ self.features.T
        if self.distance == "cosine":
            return products
        # Half the squared distance, negated, without the term that is the same for all neighbours.
        return products - self.features.square().sum(1) / 2
