"""Wrong labels are named by images that never saw them, and honest ones are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.checks.label_errors import deal_folds, find_label_errors
from trainables.checks.neighbours import Features, nearest, unit_length

RANDOM = np.random.default_rng(0)


def clusters(
    num_classes: int, each: int, *, width: int = 64, noise: float = 1.0
) -> tuple[Features, np.ndarray]:
    labels = np.repeat(np.arange(num_classes), each)
    centres = np.random.default_rng(1).normal(size=(num_classes, width))
    features = centres[labels] + noise * np.random.default_rng(2).normal(size=(len(labels), width))
    return features.astype(np.float32), labels


def test_changed_labels_are_named_first_with_their_class() -> None:
    features, true = clusters(6, 60)
    labels, changed = true.copy(), np.arange(0, 360, 20)
    labels[changed] = (true[changed] + 2) % 6
    suspects = find_label_errors(features, labels, np.arange(360))
    assert len(suspects) >= 0.8 * len(changed)
    assert {suspect.row for suspect in suspects} <= set(changed)
    assert all(suspect.suggested == true[suspect.row] for suspect in suspects)
    assert [s.score for s in suspects] == sorted((s.score for s in suspects), reverse=True)


def test_clean_labels_are_left_alone() -> None:
    features, labels = clusters(5, 50)
    assert find_label_errors(features, labels, np.arange(250)) == []


def test_labels_without_meaning_have_no_suspects() -> None:
    features, labels = np.random.default_rng(3).normal(size=(300, 32)).astype(np.float32), np.arange(300) % 3
    assert find_label_errors(features, labels, np.arange(300)) == []


def test_copies_with_the_same_wrong_label_do_not_confirm_it() -> None:
    features, true = clusters(4, 40)
    copies = np.repeat(features[:1], 12, axis=0) + 0.01
    features, labels = np.concatenate([features, copies]), np.concatenate([true, np.zeros(12, np.int64)])
    labels[0] = labels[160:] = 3
    groups = np.concatenate([np.arange(160), np.zeros(12, np.int64)])
    together = {suspect.row for suspect in find_label_errors(features, labels, groups)}
    assert {0, *range(160, 172)} <= together
    torn = {suspect.row for suspect in find_label_errors(features, labels, np.arange(172))}
    assert not torn & {0, *range(160, 172)}


def test_an_only_image_of_its_class_is_not_judged() -> None:
    features, labels = clusters(3, 30)
    labels = labels.copy()
    labels[0] = 3
    assert 0 not in {suspect.row for suspect in find_label_errors(features, labels, np.arange(90))}


def test_neighbours_are_never_of_the_own_group() -> None:
    features, _ = clusters(3, 20)
    groups = np.arange(60) // 2
    rows, cosines = nearest(unit_length(features), groups, count=10)
    assert (groups[rows] != groups[:, None]).all()
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_folds_keep_groups_together_and_classes_apart() -> None:
    labels, groups = np.repeat(np.arange(4), 50), np.arange(200) // 2
    folds = deal_folds(labels, groups, seed=0)
    assert (folds[::2] == folds[1::2]).all()
    counts = np.array([np.bincount(folds[labels == name], minlength=5) for name in range(4)])
    assert counts.min() >= 8 and counts.max() <= 12


@pytest.mark.parametrize("labels", [[], [0], [0, 0, 0], [0, 1]])
def test_data_that_cannot_be_judged_have_no_suspects(labels: list[int]) -> None:
    features = RANDOM.normal(size=(len(labels), 8)).astype(np.float32)
    assert find_label_errors(features, np.array(labels, np.int64), np.arange(len(labels))) == []


@pytest.mark.slow
def test_three_thousand_classes_of_three_images_take_seconds() -> None:
    features, true = clusters(3000, 3, width=256)
    labels = true.copy()
    labels[::50] = (true[::50] + 7) % 3000
    suspects = find_label_errors(features, labels, np.arange(9000))
    found = {suspect.row for suspect in suspects} & set(range(0, 9000, 50))
    assert len(found) >= 0.7 * 180
