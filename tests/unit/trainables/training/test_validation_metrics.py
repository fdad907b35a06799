"""What validation measured is joined from all workers, and ranked as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contract.ranking_metrics import MOST_CELLS, compute_ranking
from trainables.training.loop import EvaluationResult, evaluate


def draw(images: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, classes, generator=generator), torch.arange(images) % classes


def measure(logits: Tensor, labels: Tensor) -> EvaluationResult:
    return evaluate(lambda inputs: inputs, [(logits, labels)], num_classes=logits.shape[1])


def test_two_workers_report_the_ranking_of_all_images() -> None:
    logits, labels = draw(31, 3)
    whole = measure(logits, labels)
    workers = [measure(logits[rank::2], labels[rank::2]) for rank in range(2)]

    def gather(attribute: str) -> Tensor:
        joined = torch.empty_like(getattr(whole, attribute))
        for rank, worker in enumerate(workers):
            joined[rank::2] = getattr(worker, attribute)
        return joined

    joined = workers[1].joined(
        lambda rows: gather("labels")[:, None] if rows.dtype == torch.int64 else gather("log_probabilities")
    )

    assert torch.equal(joined.labels, labels)
    for name in ("val_auroc", "val_average_precision"):
        assert joined.compute()[name] == whole.compute()[name]


def test_many_images_and_classes_are_ranked_only_where_asked_for() -> None:
    result = measure(*draw(MOST_CELLS // 1000 + 1, 1000))

    assert "val_auroc" not in result.compute()
    ranked = result.compute(always_rank=True)
    expected = compute_ranking(result.log_probabilities.numpy(), result.labels.numpy())
    assert ranked["val_auroc"] == pytest.approx(expected["val_auroc"])
    assert ranked["val_loss"] == result.compute()["val_loss"]


def test_images_of_one_class_have_no_ranking() -> None:
    logits, labels = draw(10, 2)

    assert "val_auroc" not in measure(logits, torch.zeros_like(labels)).compute(always_rank=True)
