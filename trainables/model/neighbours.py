"""A head without weights: it remembers the training images' features and lets the nearest ones vote."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

TIE = 1e-3
"""Share of a vote that the nearest neighbour has more than a very far one: ties go to the nearer class."""


class NeighbourHead(nn.Module):
    """Features -> logarithms of the classes' shares of the votes, one vote being spread over all classes."""

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
        """Take the training images' features for the ones to look among."""
        self.features.copy_(self._prepare(features))
        self.labels.copy_(labels)

    def forward(self, features: Tensor) -> Tensor:
        """In train mode the nearest one is left out, since it is the image itself.

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
        # Half the squared distance, turned round, without the part that is the same for all neighbours.
        return products - self.features.square().sum(1) / 2
