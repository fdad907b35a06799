"""Statistics on a study: is the first really better, how sure is a value, what mattered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.comparison import (
    compare_predictions,
    confidence_interval,
    describe_test,
    mcnemar,
)
from analysis.curves import Curve, find_common_epoch, find_rungs
from analysis.importance import explained_share, make_groups, measure_importance
from analysis.predictions import Predictions, calibration, class_scores, load_predictions
from contract.metrics import Direction, direction_of


def predict(right: np.ndarray, *, classes: int = 3) -> Predictions:
    """Confident answers, right where asked."""
    labels = np.arange(len(right)) % classes
    answers = np.where(right, labels, (labels + 1) % classes)
    probabilities = np.full((len(right), classes), 0.1, dtype=np.float32)
    probabilities[np.arange(len(right)), answers] = 1 - 0.1 * (classes - 1)
    return Predictions(np.arange(len(right)), labels, np.log(probabilities))


def test_a_clear_difference_is_one() -> None:
    first, second = predict(np.arange(400) >= 20), predict(np.arange(400) >= 80)

    tested = compare_predictions(first, second, metric="val_accuracy", direction=Direction.MAXIMIZE)

    assert tested is not None and tested.is_better
    assert tested.difference == pytest.approx(0.15)
    assert tested.low < 0.15 < tested.high
    assert "is better than" in describe_test(tested, first="a", second="b")


def test_the_same_predictions_cannot_be_told_apart() -> None:
    same = predict(np.arange(50) >= 5)

    tested = compare_predictions(same, same, metric="val_accuracy", direction=Direction.MAXIMIZE)

    assert tested is not None and not tested.is_better and not tested.is_worse
    assert (tested.difference, tested.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("metric", ["val_loss", "val_macro_f1", "val_balanced_accuracy", "val_top3_accuracy"])
def test_every_metric_of_the_predictions_can_be_tested(metric: str) -> None:
    good, bad = predict(np.arange(90) >= 3, classes=5), predict(np.arange(90) >= 60, classes=5)

    tested = compare_predictions(good, bad, metric=metric, direction=direction_of(metric))

    assert tested is not None
    assert tested.difference >= 0


def test_predictions_for_other_images_cannot_be_compared() -> None:
    first = predict(np.ones(10, dtype=bool))
    second = Predictions(first.ids + 5, first.labels, first.log_probabilities)

    assert compare_predictions(first, second, metric="val_accuracy", direction=Direction.MAXIMIZE) is None


def test_the_order_of_the_images_does_not_matter() -> None:
    first = predict(np.arange(30) >= 6)
    turned = Predictions(first.ids[::-1], first.labels[::-1], first.log_probabilities[::-1])

    tested = compare_predictions(first, turned, metric="val_accuracy", direction=Direction.MAXIMIZE)

    assert tested is not None and tested.difference == 0.0


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(1, 9) == mcnemar(9, 1)
    assert mcnemar(17, 5) == pytest.approx(0.016901, abs=1e-6)
    assert mcnemar(400, 300) == pytest.approx(1.784763e-4, rel=1e-5)


def test_an_interval_holds_its_value() -> None:
    found = confidence_interval(predict(np.arange(200) >= 30), metric="val_macro_f1")

    assert found is not None
    assert found[1] < found[0] < found[2]


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    precision, recall, _ = class_scores(np.array([[5, 0], [5, 3], [8, 0]]))

    assert np.isnan(precision[1])
    assert recall.tolist() == [1.0, 0.0]


def test_calibration_sees_confidence_above_accuracy() -> None:
    bins, error = calibration(predict(np.arange(100) >= 50))

    assert error == pytest.approx(0.3, abs=0.01)
    assert sum(one["images"] for one in bins) == 100


def test_a_broken_predictions_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0").mkdir(parents=True)
    (tmp_path / "trials" / "0" / "predictions.npz").write_bytes(b"PK\x03\x04 half")

    assert load_predictions(tmp_path, 0) is None
    assert load_predictions(tmp_path, 1) is None


def test_what_decides_the_value_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    configs = [{"depth": int(i % 3), "rate": float(generator.random())} for i in range(60)]
    values = [config["depth"] + generator.normal(0, 0.3) for config in configs]

    top, other = measure_importance(configs, values, ["rate", "depth"])

    assert (top.name, other.name) == ("depth", "rate")
    assert top.explained > 0.7 and top.p_value < 0.01
    assert other.p_value > 0.05


def test_a_handful_of_trials_has_no_importance() -> None:
    assert measure_importance([{"a": 1}, {"a": 2}], [0.1, 0.9], ["a"]) == []


def test_groups_take_values_of_mixed_kinds() -> None:
    assert make_groups([0, 1, "all", None, 1]).tolist().count(make_groups([0, 1, "all", None, 1])[1]) == 2
    assert len(set(make_groups([float(i) for i in range(40)]).tolist())) == 4


def test_groups_without_a_difference_explain_nothing() -> None:
    values = np.tile([0.0, 1.0], 20)

    assert explained_share(values, np.repeat([0, 1], 20)) <= 0.0


def test_trials_are_compared_at_an_epoch_that_half_of_them_reached() -> None:
    lengths = [9, 3, 3, 1, 1, 1]
    curves = {i: Curve(epochs=list(range(1, n + 1)), stopped=n < 9) for i, n in enumerate(lengths)}

    assert find_common_epoch(curves) == 3
    assert find_rungs(curves) == [1, 3]
    assert find_common_epoch({}) == 0
