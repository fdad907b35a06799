"""AUROC and average precision agree with scikit-learn, with ties, weights and any number of classes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from contract.ranking_metrics import (
    FEW,
    MOST_RESAMPLED,
    POSITIVE,
    RANKING_METRICS,
    Array,
    compute_ranking,
    ranking_measure,
)


def draw(images: int, classes: int, *, seed: int = 0, decimals: int = 7) -> tuple[Array, Array]:
    """Log-probabilities that know something of the labels; few decimals make ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1
    values = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).round(decimals)
    return values.astype(np.float32), labels


def expect(values: Array, labels: Array, weights: Array | None = None) -> dict[str, float]:
    wanted = [POSITIVE] if values.shape[1] == 2 else range(values.shape[1])
    pairs = [(labels == label, values[:, label]) for label in wanted]
    weighed = np.ones(len(labels)) if weights is None else weights
    pairs = [pair for pair in pairs if 0 < weighed @ pair[0] < weighed.sum()]
    scores = (roc_auc_score, average_precision_score)
    return {
        name: float(np.mean([score(truth, own, sample_weight=weighed) for truth, own in pairs]))
        for name, score in zip(RANKING_METRICS, scores, strict=True)
    }


@pytest.mark.parametrize(("images", "classes"), [(60, 2), (200, 5), (40, 30), (400, 3)])
@pytest.mark.parametrize("decimals", [7, 1, 0])
def test_they_agree_with_scikit_learn(images: int, classes: int, decimals: int) -> None:
    values, labels = draw(images, classes, decimals=decimals)

    assert compute_ranking(values, labels) == pytest.approx(expect(values, labels), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4, 30])
@pytest.mark.parametrize("decimals", [7, 1])
def test_weighted_images_count_so_many_times(classes: int, decimals: int) -> None:
    values, labels = draw(90, classes, decimals=decimals)
    weights = np.random.default_rng(3).integers(0, 3, 90).astype(float)

    expected = expect(values, labels, weights)

    for name in RANKING_METRICS:
        measure = ranking_measure(values, labels, name)
        assert measure is not None
        assert measure(weights) == pytest.approx(expected[name], abs=1e-9)
        assert measure(np.ones(90)) == pytest.approx(compute_ranking(values, labels)[name], abs=1e-9)


def test_small_and_large_classes_are_counted_by_other_ways_that_agree() -> None:
    values, labels = draw(FEW * 4 + 2, 2, decimals=1)
    few = np.flatnonzero(labels == 1)[:FEW]
    rows = np.append(np.flatnonzero(labels == 0), few)

    assert len(few) == FEW
    for chosen in (rows, np.arange(len(labels))):
        found = compute_ranking(values[chosen], labels[chosen])
        assert found == pytest.approx(expect(values[chosen], labels[chosen]), abs=1e-9)


def test_of_two_classes_the_second_is_looked_for() -> None:
    labels = np.array([0, 0, 0, 1])
    values = np.log(np.array([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], dtype=np.float32))

    assert compute_ranking(values, labels) == pytest.approx(
        {"val_auroc": 2 / 3, "val_average_precision": 1 / 2}
    )


def test_a_class_without_images_is_left_out_and_one_alone_has_no_ranking() -> None:
    values, labels = draw(50, 4)
    labels[labels == 2] = 0

    assert compute_ranking(values, labels) == pytest.approx(expect(values, labels))
    assert compute_ranking(values, np.zeros(50, dtype=int)) == {}
    assert compute_ranking(values[:, :2], np.ones(50, dtype=int)) == {}
    assert ranking_measure(values, np.zeros(50, dtype=int), "val_auroc") is None
    measure = ranking_measure(values, labels, "val_auroc")
    assert measure is not None and np.isnan(measure((labels == 0).astype(float)))


def test_too_many_images_and_classes_are_not_resampled() -> None:
    values, labels = draw(MOST_RESAMPLED // 100 + 1, 100)

    assert ranking_measure(values, labels, "val_auroc") is None
    assert compute_ranking(values, labels)["val_auroc"] > 0.7


def test_equal_probabilities_rank_as_chance_does() -> None:
    labels = np.arange(40) % 4
    values = np.full((40, 4), np.log(0.25), dtype=np.float32)

    assert compute_ranking(values, labels) == pytest.approx({"val_auroc": 0.5, "val_average_precision": 0.25})
