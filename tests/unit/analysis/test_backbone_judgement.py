"""Backbones are ruled out only where both judges put them behind by more than chance."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.calibration.backbones import Share, choose_backbones, judge_features

EACH = np.arange(400)
"""Every image is a group of its own."""


def hits(share: float, number: int = 400) -> np.ndarray:
    return np.arange(number) < share * number


def kept(judged: dict[str, tuple[float, float] | None], groups: np.ndarray = EACH) -> list[str]:
    found = {
        name: None if shares is None else (hits(shares[0], len(groups)), hits(shares[1], len(groups)))
        for name, shares in judged.items()
    }
    return [row.name for row in choose_backbones(found, groups, favourite="first") if row.kept]


def test_a_backbone_far_behind_in_both_ways_is_ruled_out() -> None:
    assert kept({"first": (0.9, 0.9), "far": (0.6, 0.6), "near": (0.88, 0.88)}) == ["first", "near"]


@pytest.mark.parametrize("shares", [(0.6, 0.9), (0.9, 0.6)])
def test_one_judge_alone_rules_nothing_out(shares: tuple[float, float]) -> None:
    assert kept({"first": (0.9, 0.9), "other": shares}) == ["first", "other"]


def test_the_favourite_is_kept_whatever_the_judges_say() -> None:
    assert kept({"first": (0.2, 0.2), "other": (0.9, 0.9), "third": (0.3, 0.3)}) == ["first", "other"]


def test_a_backbone_without_pretrained_weights_cannot_be_judged_and_is_kept() -> None:
    assert kept({"first": None, "other": (0.9, 0.9), "third": (0.3, 0.3)}) == ["first", "other"]


def test_images_that_are_alike_count_as_one() -> None:
    """40 groups of ten images tell less than 400 images."""
    shares = {"first": (0.9, 0.9), "other": (0.78, 0.78)}

    assert kept(shares) == ["first"]
    assert kept(shares, groups=EACH // 10) == ["first", "other"]


@pytest.mark.parametrize("number", [1, 4, 12])
def test_few_images_rule_nothing_out_even_if_all_of_them_are_right(number: int) -> None:
    groups = np.arange(number)

    assert Share.of(hits(1.0, number), groups, seed=0).low < 0.8
    assert kept({"first": (1.0, 1.0), "other": (0.75, 0.75)}, groups=groups) == ["first", "other"]


def test_both_judges_see_classes_that_lie_apart_and_none_in_noise() -> None:
    dice = np.random.default_rng(0)
    labels = np.arange(90) % 3
    apart = (np.eye(3)[labels] + 0.1 * dice.standard_normal((90, 3))).astype(np.float32)
    noise = dice.standard_normal((90, 3)).astype(np.float32)

    good = judge_features(apart[:60], labels[:60], apart[60:], labels[60:], num_classes=3)
    bad = judge_features(noise[:60], labels[:60], noise[60:], labels[60:], num_classes=3)

    assert all(one.mean() > 0.9 for one in good)
    assert all(one.mean() < 0.7 for one in bad)


def test_fewer_training_images_than_neighbours_and_a_class_without_any_are_no_error() -> None:
    features = np.eye(4, dtype=np.float32)
    labels = np.array([0, 0, 1, 1])

    neighbours, ridge = judge_features(features, labels, features, labels, num_classes=3)

    assert len(neighbours) == len(ridge) == 4
