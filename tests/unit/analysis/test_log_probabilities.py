"""Confident mistakes keep their size: predictions are stored as log-probabilities in single precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.comparison import confidence_interval, make_measure
from analysis.predictions import Predictions, load_predictions
from trainables.training.loop import evaluate


def measure(log_probabilities: np.ndarray, labels: np.ndarray, metric: str) -> float:
    found = make_measure(Predictions(np.arange(len(labels)), labels, log_probabilities), metric)
    assert found is not None
    return found(np.ones(len(labels)))


def test_the_loss_of_a_confident_mistake_is_not_capped() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0, 0.0, 0.0]])
    result = evaluate(torch.nn.Identity(), [(logits, torch.tensor([4]))], num_classes=5)

    loss = measure(result.log_probabilities.numpy(), np.array([4]), "val_loss")

    assert loss == pytest.approx(30.0)
    assert loss == pytest.approx(result.sums.compute("val")["val_loss"])


def test_a_class_behind_three_unlikely_ones_is_not_among_the_top_three() -> None:
    logits = torch.tensor([[60.0, 20.0, 10.0, 5.0, 0.0]])
    result = evaluate(torch.nn.Identity(), [(logits, torch.tensor([4]))], num_classes=5)

    share = measure(result.log_probabilities.numpy(), np.array([4]), "val_top3_accuracy")

    assert share == 0.0 == result.sums.compute("val")["val_top3_accuracy"]


def test_equally_likely_classes_count_by_chance_among_the_top_three() -> None:
    log_probabilities = np.log(np.array([[0.2] * 5, [0.4, 0.3, 0.1, 0.1, 0.1]], dtype=np.float32))

    shares = [measure(log_probabilities[[row]], np.array([4]), "val_top3_accuracy") for row in (0, 1)]

    assert shares == pytest.approx([3 / 5, 1 / 3])


def test_probabilities_of_an_older_study_are_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0"
    folder.mkdir(parents=True)
    probabilities = np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.6, 0.1, 0.1, 0.1]], dtype=np.float16)
    np.savez(folder / "predictions.npz", ids=[3, 5], labels=[4, 1], probabilities=probabilities)

    found = load_predictions(tmp_path, 0)

    assert found is not None
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-7)
    assert measure(found.log_probabilities, found.labels, "val_top3_accuracy") == pytest.approx(0.75)
    loss = confidence_interval(found, metric="val_loss")
    assert loss is not None and np.isfinite(loss).all()
