"""Two classes: targets are read, reached at the least cost, and not promised beyond what new images bring."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from analysis.calibration.operating_point import (
    Target,
    find_operating_point,
    measure_ranking,
    parse_target,
)


def draw(num: int, seed: int, *, apart: float = 2.0, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes whose logits are normal, `apart` standard deviations from each other."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(num) < share).astype(np.int64)
    positive = 1 / (1 + np.exp(-(generator.normal(size=num) + apart * labels - apart / 2)))
    return np.stack([1 - positive, positive], axis=1), labels


def of_scores(*scores: float) -> np.ndarray:
    positive = np.array(scores)
    return np.stack([1 - positive, positive], axis=1)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("precision=0.95", "precision", 0.95),
        (" recall = 1 ", "recall", 1.0),
        ("false_alarms=0", "false_alarms", 0),
    ],
)
def test_a_target_is_read(text: str, name: str, value: float) -> None:
    assert parse_target(text) == Target(name, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("precison=0.9", "did you mean precision?"),
        ("false-alarms=0.1", "did you mean false_alarms?"),
        ("fpr=0.1", "choose one of precision=X, recall=X"),
        ("precision=95", "as in precision=0.95"),
        ("recall=90%", "as in recall=0.9"),
        ("recall=-0.1", "between 0 and 1"),
        ("recall=nan", "between 0 and 1"),
        ("recall", "between 0 and 1"),
        ("recall=high", "as in recall=0.95"),
    ],
)
def test_a_target_that_cannot_be_read_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_target(text)

    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "called"),
    [
        ("precision=0.75", 4),  # + + - +: 3 of 4
        ("precision=0.9", 2),
        ("recall=0.75", 4),
        ("recall=1", 6),
        ("specificity=0.75", 4),  # one of four negative images is called
        ("specificity=1", 2),
        ("false_alarms=0.5", 6),
        ("false_alarms=0", 2),
    ],
)
def test_a_target_is_reached_at_the_least_cost(target: str, called: int) -> None:
    scores = of_scores(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    labels = np.array([1, 1, 0, 1, 0, 1, 0, 0])

    point = find_operating_point(scores, labels, parse_target(target), positive=1, groups=np.arange(8))

    assert (scores[:, 1] >= point.threshold).sum() == called
    assert point.counts[0] + point.counts[2] == called and sum(point.counts) == 8


def test_equal_probabilities_are_called_together() -> None:
    scores, labels = of_scores(0.9, 0.5, 0.5, 0.1), np.array([1, 1, 0, 0])

    point = find_operating_point(scores, labels, Target("recall", 1.0), positive=1, groups=np.arange(4))

    assert point.counts == (2, 0, 1, 1) and 0.1 < point.threshold < 0.5


def test_either_class_can_be_the_one_looked_for() -> None:
    scores, labels = draw(400, 0)

    one = find_operating_point(scores, labels, Target("recall", 0.9), positive=0, groups=np.arange(400))

    assert one.shares["recall"].value == pytest.approx(0.9, abs=0.01)
    assert one.counts[0] + one.counts[1] == (labels == 0).sum()


def test_a_precision_out_of_reach_names_the_best_one() -> None:
    scores, labels = of_scores(0.9, 0.8, 0.7, 0.1), np.array([0, 1, 1, 0])

    with pytest.raises(ValueError, match=r"best precision is 0\.667, at recall 1\.000"):
        find_operating_point(scores, labels, Target("precision", 0.95), positive=1, groups=np.arange(4))


def test_more_than_two_classes_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="this study has 3; merge classes with --classes FILE"):
        find_operating_point(
            np.full((9, 3), 1 / 3),
            np.arange(9) % 3,
            Target("recall", 0.9),
            positive=1,
            groups=np.arange(9),
        )


@pytest.mark.parametrize("target", ["precision=0.9", "recall=0.9", "specificity=0.95", "false_alarms=0.05"])
def test_what_is_expected_is_what_new_images_bring(target: str) -> None:
    new, new_labels = draw(100_000, 999)
    expected, brought, kept = [], [], []
    for seed in range(25):
        scores, labels = draw(150, seed)
        point = find_operating_point(scores, labels, parse_target(target), positive=1, groups=np.arange(150))
        called, positive = new[:, 1] >= point.threshold, new_labels == 1
        name = target.partition("=")[0]
        among, right = {
            "precision": (called, positive),
            "recall": (positive, called),
            "specificity": (~positive, ~called),
            "false_alarms": (~positive, called),
        }[name]
        assert point.expected is not None and point.low is not None
        expected.append(point.expected)
        brought.append(float(right[among].mean()))
        below = name == "false_alarms"
        kept.append(brought[-1] <= point.low if below else brought[-1] >= point.low)

    assert np.mean(expected) == pytest.approx(np.mean(brought), abs=0.02)
    assert np.mean(kept) > 0.9


def test_the_ranking_is_that_of_scikit_learn() -> None:
    scores, labels = draw(300, 4)
    scores = scores.round(1)  # with ties

    ranking = measure_ranking(scores, labels, positive=1, groups=np.arange(300))

    assert ranking.auroc.value == pytest.approx(roc_auc_score(labels, scores[:, 1]))
    assert ranking.average_precision.value == pytest.approx(average_precision_score(labels, scores[:, 1]))
    assert ranking.auroc.low < ranking.auroc.value < ranking.auroc.high


def test_groups_widen_the_intervals() -> None:
    scores, labels = draw(60, 5)
    copied, groups = np.repeat(np.arange(60), 5), np.repeat(np.arange(60), 5)

    alone = measure_ranking(scores[copied], labels[copied], positive=1, groups=np.arange(300))
    grouped = measure_ranking(scores[copied], labels[copied], positive=1, groups=groups)

    assert alone.auroc.value == pytest.approx(grouped.auroc.value)
    assert grouped.auroc.high - grouped.auroc.low > 1.7 * (alone.auroc.high - alone.auroc.low)


def test_few_groups_promise_nothing() -> None:
    scores, labels = draw(50, 6)
    groups = np.arange(50) % 4

    point = find_operating_point(scores, labels, Target("recall", 0.8), positive=1, groups=groups)

    assert point.expected is None and "too few images" in point.describe("defect")


def test_the_sentence_says_what_was_chosen_and_what_to_expect() -> None:
    scores, labels = draw(300, 7)

    point = find_operating_point(scores, labels, Target("precision", 0.9), positive=1, groups=np.arange(300))

    said = point.describe("defect")
    assert said.startswith('At precision=0.9 an image is called "defect" from probability 0.')
    assert "expected on new images, at least" in said and "recall" in said
    assert point.as_values()["shares"]["recall"]["value"] == point.shares["recall"].value
