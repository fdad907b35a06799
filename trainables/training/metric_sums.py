"""The metrics a trial reports, and the sums over images that they are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor

METRIC_NAMES: dict[str, str] = {
    "epoch": "count, from 1",
    "train_loss": "nats: the loss that was minimised, mean over the epoch's images",
    "train_accuracy": "share of training images classified right, while the weights changed",
    "train_top3_accuracy": "share of training images whose class is among the three likeliest",
    "val_loss": "nats: cross-entropy, mean over the validation images",
    "val_accuracy": "share of validation images classified right",
    "val_top3_accuracy": "share of validation images whose class is among the three likeliest",
    "val_macro_f1": "mean over the classes of the harmonic mean of precision and recall",
    "val_balanced_accuracy": "mean over the classes of recall",
    "images_per_second": "training images a second",
    "epoch_seconds": "seconds: training and validation",
    "learning_rate": "the head's, at the epoch's last update",
    "images_at_once": "training images in one pass: less than the batch if asked for, or if memory ran out",
    "peak_memory_gb": "GB: the most the trial allocated on its GPU so far; on a CPU what its process holds",
    "parameters": "count, head included",
    "trainable_parameters": "count, head included",
}
"""Everything a trial reports each epoch, with its unit and meaning."""

SEARCH_METRICS = tuple(name for name in METRIC_NAMES if name.startswith("val_"))
"""What a search may optimize: losses are minimized, everything else is maximized."""

Reduce = Callable[["Tensor"], "Tensor"]
"""Sums a tensor over all workers of a trial."""


@dataclass
class MetricSums:
    """Sums over the images seen so far, on the device, so that no batch waits for a transfer.

    They add up over workers too: `reduced` is exact, where a mean of means would not be.
    """

    totals: Tensor
    """Loss, right, right among the top three, images."""

    confusion: Tensor | None
    """[true class, predicted class]; None where it is not kept."""

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

    def compute(self, part: str) -> dict[str, float]:
        """The metrics of a part of the data ("train" or "val"), under the names of `METRIC_NAMES`."""
        loss, right, top3, images = self.totals.tolist()
        assert images > 0, "no image was counted"
        metrics = {
            f"{part}_loss": loss / images,
            f"{part}_accuracy": right / images,
            f"{part}_top3_accuracy": top3 / images,
        }
        if self.confusion is not None:
            f1, recall = class_means(self.confusion)
            metrics |= {f"{part}_macro_f1": f1, f"{part}_balanced_accuracy": recall}
        return metrics


def check_metric(name: str) -> None:
    """Before a search.

    Raises:
        ValueError: a search cannot optimize it.
    """
    if name not in SEARCH_METRICS:
        raise ValueError(f"--metric must be one of {', '.join(SEARCH_METRICS)}, got {name!r}")


def check_metrics(names: Sequence[str]) -> None:
    """The first is what trials are ranked by; a further one may be anything that they report.

    Raises:
        ValueError: no trial reports it, or none can be ranked by it.
    """
    check_metric(names[0])
    for name in names[1:]:
        if name not in METRIC_NAMES:
            raise ValueError(f"--metric must be names of {', '.join(METRIC_NAMES)}, got {name!r}")


def class_means(confusion: Tensor) -> tuple[float, float]:
    """Macro F1 and balanced accuracy; classes without an image are left out of both means."""
    right = confusion.diagonal()
    images, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    present = images > 0
    f1 = 2 * right[present] / (images + predicted)[present]
    recall = right[present] / images[present]
    return float(f1.mean()), float(recall.mean())
