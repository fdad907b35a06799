"""Sums over images that a trial's metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor

Reduce = Callable[["Tensor"], "Tensor"]
"""Sums a tensor over all workers of a trial."""


@dataclass
class MetricSums:
    """Sums over the images seen so far, on the device, so that no batch waits for a transfer.

    They add up over workers too: `reduced` is exact, where a mean of means would not be.
    """

    totals: Tensor
    """Sums of loss, hits, hits among the top three, and images: float64 [4]."""

    by_class: Tensor | None
    """Images of each class that are right, of it, and taken for it: float64 [3, classes]; None where not
    counted. Macro F1 and recall need no more, and a confusion matrix of 3,000 classes takes 72 MB a batch."""

    @classmethod
    def zeros(cls, num_classes: int, *, by_class: bool, device: str | None = None) -> Self:
        import torch

        size = (3, num_classes)
        return cls(
            totals=torch.zeros(4, dtype=torch.float64, device=device),
            by_class=torch.zeros(size, dtype=torch.float64, device=device) if by_class else None,
        )

    def update(self, logits: Tensor, targets: Tensor, loss_sum: Tensor) -> None:
        """Add a batch.

        Args:
            targets: classes, or each class's share of every image, which then is right by that share.
        """
        import torch

        top = logits.topk(min(3, logits.shape[1]), dim=1).indices
        hits = top == targets[:, None] if targets.dim() == 1 else targets.gather(1, top)
        batch = [loss_sum.double(), hits[:, 0].sum().double(), hits.sum().double()]
        images = torch.full_like(batch[0], len(targets))
        self.totals += torch.stack([*batch, images])
        if self.by_class is not None:
            classes = self.by_class.shape[1]
            # One count for all three rows: the rest of `right`, past their end, is the images that are wrong.
            right = torch.where(hits[:, 0], targets, 3 * classes)
            cells = torch.cat([right, classes + targets, 2 * classes + top[:, 0]])
            counts = torch.bincount(cells, minlength=3 * classes + 1)[: 3 * classes]
            self.by_class += counts.view(3, classes)

    def reduced(self, reduce: Reduce | None) -> MetricSums:
        """The sums over all workers."""
        if reduce is None:
            return self
        by_class = None if self.by_class is None else reduce(self.by_class)
        return MetricSums(totals=reduce(self.totals), by_class=by_class)

    def compute(self, split: str) -> dict[str, float]:
        """The metrics of a split ("train" or "val"), by their names in METRICS."""
        loss, right, top3, images = self.totals.tolist()
        assert images > 0, "no image was counted"
        metrics = {
            f"{split}_loss": loss / images,
            f"{split}_accuracy": right / images,
            f"{split}_top3_accuracy": top3 / images,
        }
        if self.by_class is not None:
            f1, recall = class_means(self.by_class)
            metrics |= {f"{split}_macro_f1": f1, f"{split}_balanced_accuracy": recall}
        return metrics


def class_means(by_class: Tensor) -> tuple[float, float]:
    """Return macro F1 and balanced accuracy of sums [3, classes], over the classes that have an image."""
    right, images, predicted = by_class[:, by_class[1] > 0]
    return float((2 * right / (images + predicted)).mean()), float((right / images).mean())
