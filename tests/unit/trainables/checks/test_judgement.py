"""What features say about the images is put into the findings: labels, outliers, classes that are alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.checks.findings import CopyGroup, Findings
from trainables.checks.judgement import find_groups, judge_images
from trainables.checks.review import make_review
from trainables.data.datasets import ImageListing
from trainables.images.decoding import ImageFact

NUM = 120
CLASSES = ("cat", "dog", "fox")


def make_findings(labels: np.ndarray) -> Findings:
    return Findings(
        listing=ImageListing(
            source="/data",
            paths=tuple(Path(f"/data/{number}.png") for number in range(NUM)),
            labels=labels,
            classes=CLASSES,
            splits=(None,) * NUM,
        ),
        facts=tuple(ImageFact(True, "", 8, 8, str(number)) for number in range(NUM)),
    )


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(NUM) % 3


@pytest.fixture
def features(labels: np.ndarray) -> np.ndarray:
    """Three clouds in eight dimensions."""
    random = np.random.default_rng(0)
    return (4 * np.eye(8)[labels] + random.normal(0, 0.5, (NUM, 8))).astype(np.float32)


def test_a_wrong_label_is_named_with_the_class_it_looks_like(
    labels: np.ndarray, features: np.ndarray
) -> None:
    given = labels.copy()
    given[7] = 2  # is 1

    found = judge_images(make_findings(given), features, np.arange(NUM))

    assert [(one.image, one.suggested) for one in found.suspects] == [(7, 1)]
    assert "more like 'dog' than 'fox'; 5 of the 5 images most like it are 'dog'" in found.suspects[0].why
    assert set(labels[list(found.suspects[0].neighbours)]) == {1}
    assert next(row.suggested for row in make_review(found) if row.path.endswith("7.png")) == "dog"


def test_features_of_some_images_speak_of_those_images(labels: np.ndarray, features: np.ndarray) -> None:
    """The first ten cannot be read."""
    given = labels.copy()
    given[70] = (labels[70] + 1) % 3
    rows = np.arange(10, NUM)

    found = judge_images(make_findings(given), features[rows], rows)

    assert [one.image for one in found.suspects] == [70]


def test_two_classes_with_the_same_content_are_named(labels: np.ndarray, features: np.ndarray) -> None:
    same = features[labels == 0]
    features[labels == 1] = same + np.random.default_rng(1).normal(0, 0.5, same.shape)

    found = judge_images(make_findings(labels), features, np.arange(NUM))

    assert [pair.classes for pair in found.pairs] == [(0, 1)]


def test_copies_and_given_groups_are_kept_together(labels: np.ndarray) -> None:
    findings = make_findings(labels)
    copies = (CopyGroup((0, 1), is_exact=True), CopyGroup((5, 6), is_exact=False))
    grouped = replace(findings.listing, groups=("", "a", "a", *("",) * (NUM - 3)))

    groups = find_groups(replace(findings, copies=copies, listing=grouped))

    assert len(set(groups[[0, 1, 2]])) == 1
    assert groups[5] == groups[6]
    assert len(set(groups)) == NUM - 3


def test_a_handful_of_images_is_not_judged_and_it_is_said(labels: np.ndarray, features: np.ndarray) -> None:
    found = judge_images(make_findings(labels), features[:5], np.arange(5))

    assert found.suspects == ()
    assert "fewer than 10 images" in found.not_checked
