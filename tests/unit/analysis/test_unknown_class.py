"""Unknown classes: hidden ones are found where they differ, and no score is better than what can be seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from analysis.calibration.probe import unit_length
from analysis.calibration.unknown import (
    FrozenFeatures,
    HiddenClass,
    choose_score,
    choose_unknown_rule,
    hide_classes,
)
from analysis.calibration.unknown_scores import Score, auroc_of, fit_distances, keep
from contract.answer import normalise
from contract.unknown_score import score_probabilities

DIMENSIONS = 24


def make_features(
    *, classes: int = 4, each: int = 40, alike: tuple[int, int] | None = None, seed: int = 0
) -> FrozenFeatures:
    """Features around one direction a class; those of two classes that are alike have the same."""
    generator = np.random.default_rng(seed)
    directions = 3 * np.random.default_rng(7).normal(size=(classes, DIMENSIONS))
    if alike:
        directions[alike[1]] = directions[alike[0]]
    labels = np.repeat(np.arange(classes), each)
    train, val = (
        (directions[labels] + generator.normal(size=(len(labels), DIMENSIONS))).astype(np.float32)
        for _ in range(2)
    )
    groups = np.arange(len(labels))
    return FrozenFeatures(
        train=train, train_labels=labels, train_groups=groups, val=val, val_labels=labels, val_groups=groups
    )


def predict(frozen: FrozenFeatures, *, classes: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(len(frozen.val), classes))
    logits[np.arange(len(logits)), frozen.val_labels] += 4
    return normalise(logits)


def names(num: int) -> list[str]:
    return [f"class{number}" for number in range(num)]


def test_hidden_classes_that_differ_are_found() -> None:
    frozen = make_features()

    rule = choose_unknown_rule(frozen, predict(frozen, classes=4), classes=names(4))

    assert len(rule.hidden) == 4 and rule.mean(rule.score) > 0.95
    assert rule.missed is not None and rule.missed.value < 0.2
    assert rule.false_alarms.value <= 0.05 <= rule.false_alarms.high
    assert "Hiding each class in turn: AUROC" in rule.describe()


def test_the_worst_class_is_the_one_with_a_twin() -> None:
    frozen = make_features(alike=(1, 3))

    rule = choose_unknown_rule(frozen, predict(frozen, classes=4), classes=names(4))

    assert {one.name for one in rule.hidden[:2]} == {"class1", "class3"}
    assert f"worst {rule.hidden[0].name}" in rule.describe()
    assert rule.hidden[0].auroc[rule.score] < 0.75 < rule.hidden[-1].auroc[rule.score]


def test_features_that_say_nothing_find_no_hidden_class() -> None:
    generator = np.random.default_rng(1)
    labels, groups = np.arange(200) % 4, np.arange(200)
    noise = generator.normal(size=(2, 200, DIMENSIONS)).astype(np.float32)
    frozen = FrozenFeatures(
        train=noise[0],
        train_labels=labels,
        train_groups=groups,
        val=noise[1],
        val_labels=labels,
        val_groups=groups,
    )

    hidden, _ = hide_classes(frozen, classes=names(4))

    assert all(abs(np.mean([one.auroc[score] for one in hidden]) - 0.5) < 0.07 for score in Score)


def test_foreign_images_fall_below_the_threshold_where_features_are_at_hand() -> None:
    frozen = make_features()
    known = predict(frozen, classes=4)
    rule = choose_unknown_rule(frozen, known, classes=names(4))
    foreign = np.random.default_rng(2).normal(size=(100, DIMENSIONS)).astype(np.float32) * 5

    scores = rule.score_images(known[:100], foreign)  # the model is as sure of them as of its own

    assert rule.score is Score.BOTH
    assert (scores < rule.threshold).mean() > 0.9
    assert (rule.score_images(known, frozen.val) < rule.threshold).mean() == rule.false_alarms.value


def test_without_features_at_hand_the_probabilities_alone_decide() -> None:
    frozen = make_features()

    rule = choose_unknown_rule(frozen, predict(frozen, classes=4), classes=names(4), allow_distance=False)

    assert not rule.score.needs_features and rule.distances is None and rule.scales is None
    assert set(rule.hidden[0].auroc) == {Score.PROBABILITY, Score.ENTROPY}


@pytest.mark.parametrize("num_classes", [1, 2])
def test_two_classes_cannot_be_judged_and_have_a_threshold_still(num_classes: int) -> None:
    frozen = make_features(classes=num_classes)

    rule = choose_unknown_rule(frozen, predict(frozen, classes=num_classes), classes=names(num_classes))

    assert rule.hidden == () and rule.missed is None
    assert f"cannot be judged: hiding one of {num_classes} classes" in rule.describe()
    assert np.isfinite(rule.threshold)


def test_of_many_classes_a_sample_is_hidden_and_said_so() -> None:
    frozen = make_features(classes=60, each=6)

    rule = choose_unknown_rule(frozen, predict(frozen, classes=60), classes=names(60))

    assert len(rule.hidden) == 20 and "Hiding 20 of 60 classes in turn" in rule.describe()


def test_too_few_validation_images_call_none_unknown() -> None:
    frozen = make_features(each=4)
    few = FrozenFeatures(
        train=frozen.train,
        train_labels=frozen.train_labels,
        train_groups=frozen.train_groups,
        val=frozen.val[::2],
        val_labels=frozen.val_labels[::2],
        val_groups=frozen.val_groups[::2],
    )

    rule = choose_unknown_rule(few, predict(few, classes=4), classes=names(4))

    assert np.isneginf(rule.threshold) and "needs 19 validation images" in rule.describe()
    assert rule.as_values()["threshold"] is None


def test_a_later_score_must_be_better_by_more_than_the_classes_scatter() -> None:
    def hide(gains: list[float]) -> list[HiddenClass]:
        return [
            HiddenClass(name="", auroc={Score.PROBABILITY: 0.7, Score.ENTROPY: 0.7 + gain}, missed={})
            for gain in gains
        ]

    scores = (Score.PROBABILITY, Score.ENTROPY)

    assert choose_score(hide([0.05, 0.06, 0.05, 0.04]), scores) is Score.ENTROPY
    assert choose_score(hide([0.3, -0.2, 0.2, -0.1]), scores) is Score.PROBABILITY
    assert choose_score([], scores) is Score.PROBABILITY


def test_the_result_can_be_written_as_json() -> None:
    frozen = make_features()

    values = choose_unknown_rule(frozen, predict(frozen, classes=4), classes=names(4)).as_values()

    assert json.loads(json.dumps(values))["hidden"][0]["auroc"]["both"] > 0.9
    assert len(values["scales"]) == 2


def test_the_covariance_is_shrunk_as_ledoit_and_wolf_do() -> None:
    features = unit_length(np.random.default_rng(0).normal(size=(80, 30)) * np.linspace(0.5, 3, 30))
    labels = np.arange(80) % 4
    means = np.stack([features[labels == one].mean(axis=0) for one in range(4)])
    shrunk, _ = ledoit_wolf((features - means[labels]).astype(float), assume_centered=True)

    distances = fit_distances(features, labels, 4)

    offsets = features[:, None].astype(float) - means
    expected = np.einsum("ncd,de,nce->nc", offsets, np.linalg.inv(shrunk), offsets).min(axis=1)
    assert np.exp(-distances.score(features)) == pytest.approx(expected, rel=0.01)


def test_auroc_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    known, strangers = generator.normal(1, 1, 50).round(1), generator.normal(0, 1, 70).round(1)

    expected = roc_auc_score(np.repeat([1, 0], [50, 70]), np.concatenate([known, strangers]))

    assert auroc_of(known, strangers) == pytest.approx(expected)


def test_the_threshold_loses_one_new_image_of_20() -> None:
    generator = np.random.default_rng(0)

    lost = [(generator.normal(size=1000) < keep(generator.normal(size=99))).mean() for _ in range(300)]

    assert np.mean(lost) == pytest.approx(0.05, abs=0.004)


def test_entropy_tells_a_sure_answer_from_an_unsure_one_at_the_edges() -> None:
    with np.errstate(divide="ignore"):
        values = np.log(np.array([[1.0, 0.0, 0.0], [0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]]))

    scores = score_probabilities(values, Score.ENTROPY)

    assert scores[0] == 0.0 and scores[0] > scores[1] > scores[2]
    assert scores[2] == pytest.approx(-3 * (2 / 9) ** 0.1)
