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

    confusion: Tensor | None
    """Images by [true class, predicted class]; None where they are not counted."""

    @classmethod
    def zeros(cls, num_classes: int, *, confusion: bool, device: str | None = None) -> Self:
        import torch

        size = (num_classes, num_classes)
        return cls(
            totals=torch.zeros(4, dtype=torch.float64, device=device),
            confusion=torch.zeros(size, dtype=torch.float64, device=device) if confusion else None,
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
        if self.confusion is not None:
            classes = self.confusion.shape[0]
            cells = torch.bincount(targets * classes + top[:, 0], minlength=classes * classes)
            self.confusion += cells.view(classes, classes)

    def reduced(self, reduce: Reduce | None) -> MetricSums:
        """The sums over all workers."""
        if reduce is None:
            return self
        confusion = None if self.confusion is None else reduce(self.confusion)
        return MetricSums(totals=reduce(self.totals), confusion=confusion)

    def compute(self, split: str) -> dict[str, float]:
        """The metrics of a split ("train" or "val"), by their names in METRICS."""
        loss, right, top3, images = self.totals.tolist()
        assert images > 0, "no image was counted"
        metrics = {
            f"{split}_loss": loss / images,
            f"{split}_accuracy": right / images,
            f"{split}_top3_accuracy": top3 / images,
        }
        if self.confusion is not None:
            f1, recall = class_means(self.confusion)
            metrics |= {f"{split}_macro_f1": f1, f"{split}_balanced_accuracy": recall}
        return metrics


def class_means(confusion: Tensor) -> tuple[float, float]:
    """Return macro F1 and balanced accuracy; classes without an image are left out of both means."""
    right = confusion.diagonal()
    images, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    present = images > 0
    f1 = 2 * right[present] / (images + predicted)[present]
    recall = right[present] / images[present]
    return float(f1.mean()), float(recall.mean())
