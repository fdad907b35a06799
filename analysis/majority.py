"""What always answering the commonest class would reach: the figure that stands beside the best one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.predictions import Array

MUCH_LARGER = 3.0
"""A class that has so many times the images of the others' average makes accuracy a poor guide.

Of two classes that is 75 to 25, where always answering the larger one is right three times of four.
"""


@dataclass(frozen=True, kw_only=True)
class Majority:
    """The commonest class of the validation images."""

    label: int
    num_images: int
    """Validation images of this class."""

    counts: tuple[int, ...]
    """Validation images of every class that has any, the commonest first."""

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def is_much_larger(self) -> bool:
        """True if the class has MUCH_LARGER times the images of the average other class."""
        others = self.counts[1:]
        return bool(others) and self.num_images >= MUCH_LARGER * sum(others) / len(others)

    def reaches(self, metric: str) -> float | None:
        """Value of a metric where this class is always answered; None for one that needs probabilities."""
        share = self.num_images / self.total
        values = {
            "val_accuracy": share,
            "val_top3_accuracy": sum(self.counts[:3]) / self.total,
            "val_balanced_accuracy": 1 / len(self.counts),
            "val_macro_f1": 2 * share / (1 + share) / len(self.counts),
        }
        return values.get(metric)


def find_majority(labels: Array) -> Majority | None:
    """Find the commonest class of the validation images' labels, the first of equals; None without images."""
    if not len(labels):
        return None
    counts = np.bincount(labels)
    label = int(counts.argmax())
    ordered = sorted(counts[counts > 0].tolist(), reverse=True)
    return Majority(label=label, num_images=int(counts[label]), counts=tuple(ordered))


def suggest_metric(metric: str, majority: Majority) -> str:
    """Suggest a metric that counts each class the same, where one class dwarfs the others; else ""."""
    if not majority.is_much_larger or metric in ("val_macro_f1", "val_balanced_accuracy"):
        return ""
    return (
        "One class has at least three times the images of the average other one: a new study with --metric "
        "val_macro_f1 or val_balanced_accuracy counts every class the same."
    )
