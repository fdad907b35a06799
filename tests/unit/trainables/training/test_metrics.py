"""Metrics computed from sums follow their definitions, also with empty classes and over several workers."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional

from contract.metrics import METRICS
from trainables.training.metric_sums import MetricSums


def counted(logits: torch.Tensor, targets: torch.Tensor, num_classes: int) -> MetricSums:
    sums = MetricSums.zeros(num_classes, by_class=True)
    sums.update(logits, targets, functional.cross_entropy(logits, targets, reduction="sum"))
    return sums


def random_batch(count: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, num_classes, generator=generator)
    return logits, torch.randint(num_classes, (count,), generator=generator)


def test_macro_f1_and_balanced_accuracy_agree_with_scikit_learn() -> None:
    logits, targets = random_batch(200, 6)

    metrics = counted(logits, targets, 6).compute("val")

    predicted = logits.argmax(1)
    assert metrics["val_macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert metrics["val_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted))
    assert metrics["val_accuracy"] == pytest.approx(float((predicted == targets).float().mean()))
    assert metrics["val_loss"] == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-5)


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    logits = torch.eye(4)[torch.tensor([0, 1, 1])]

    metrics = counted(logits, torch.tensor([0, 1, 0]), 4).compute("val")

    assert metrics["val_balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert metrics["val_macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_3000_classes_are_counted_in_kilobytes() -> None:
    logits, targets = random_batch(64, 3000)

    sums = counted(logits, targets, 3000)

    assert sums.by_class is not None and sums.by_class.numel() == 3 * 3000
    predicted = logits.argmax(1)
    found = sums.compute("val")
    present = f1_score(targets, predicted, average=None, labels=targets.unique(), zero_division=0)
    assert found["val_macro_f1"] == pytest.approx(present.mean())
    assert found["val_accuracy"] == pytest.approx(float((predicted == targets).float().mean()))


def test_with_two_classes_the_right_one_is_always_among_the_top_three() -> None:
    logits, targets = random_batch(10, 2)

    metrics = counted(logits, targets, 2).compute("val")

    assert metrics["val_top3_accuracy"] == 1


def test_the_sums_of_two_workers_give_the_metrics_of_all_images() -> None:
    logits, targets = random_batch(50, 5)
    whole, first, second = (counted(logits[i], targets[i], 5) for i in (slice(50), slice(17), slice(17, 50)))
    assert second.by_class is not None
    others = iter([second.by_class, second.totals])

    reduced = first.reduced(lambda tensor: tensor + next(others))

    assert reduced.compute("val") == pytest.approx(whole.compute("val"))


def test_every_computed_metric_has_a_described_name() -> None:
    logits, targets = random_batch(10, 4)

    names = set(counted(logits, targets, 4).compute("val"))

    assert names <= set(METRICS)
