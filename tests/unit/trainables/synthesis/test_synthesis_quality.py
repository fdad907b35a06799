"""The measures of generated images are those of their papers, and the alarm and the copies are found."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.synthesis.copies import CopyFinder
from trainables.synthesis.quality import (
    compare,
    describe_collapse,
    kernel_distance,
    probe_accuracy,
)

RANDOM = np.random.default_rng(0)


def draw(num: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (shift + scale * RANDOM.normal(size=(num, 16))).astype(np.float32)


def test_measures_are_those_of_the_formulas() -> None:
    real, fake, k = draw(30), draw(20, scale=0.7, shift=0.2), 5

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.linalg.norm(one.astype(np.float64) - other))

    def radius(points: np.ndarray, at: int) -> float:
        return sorted(distance(points[at], other) for other in points)[k]

    inside = np.array([[distance(x, y) <= radius(real, i) for y in fake] for i, x in enumerate(real)])
    outside = np.array([[distance(x, y) <= radius(fake, j) for j, y in enumerate(fake)] for x in real])
    found = compare(real, fake, k=k)

    assert found is not None
    assert found.precision == pytest.approx(inside.any(axis=0).mean())
    assert found.recall == pytest.approx(outside.any(axis=1).mean())
    assert found.density == pytest.approx(inside.sum() / (k * len(fake)))
    assert found.coverage == pytest.approx(inside.any(axis=1).mean())


def test_images_of_the_same_kind_have_the_coverage_that_theory_expects() -> None:
    found = compare(draw(800), draw(800))

    assert found is not None
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.02), "Naeem et al., lemma 2"
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.spread == pytest.approx(1, abs=0.05)
    assert describe_collapse(found) == ""


def test_one_image_again_and_again_is_a_collapse_in_plain_words() -> None:
    real = draw(50)

    assert "nearly all alike" in describe_collapse(compare(real, np.repeat(real[:1], 50, axis=0)))


def test_images_far_from_all_real_ones_are_a_collapse_too() -> None:
    assert "only 0% of its real images" in describe_collapse(compare(draw(50), draw(50, shift=9)))


def test_class_of_two_images_is_not_measured() -> None:
    assert compare(draw(2), draw(2)) is None
    assert describe_collapse(None) == ""


def test_kernel_distance_is_about_0_for_images_of_the_same_kind_and_grows() -> None:
    same, near, far = (kernel_distance(draw(300), draw(300, shift=shift)) for shift in (0.0, 0.3, 1.0))

    assert abs(same) < 0.05 < near < far


def test_probe_is_trained_on_the_first_images_and_tested_on_the_others() -> None:
    labels = np.repeat([0, 1], 40)
    features = draw(80)
    features[labels == 1] += 2

    assert probe_accuracy(features, labels, features, labels) > 0.95
    assert probe_accuracy(features, labels, features, 1 - labels) < 0.05


def real_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of 30 different images, their features and their classes."""
    coarse = RANDOM.integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    pixels = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return pixels, pixels.reshape(30, -1)[:, ::48].astype(np.float32), np.repeat([0, 1], 15)


def test_blurred_and_noisy_copies_are_found_with_the_image_that_they_repeat() -> None:
    pixels, features, labels = real_images()
    noise = RANDOM.normal(0, 12, pixels[3:5].shape)
    made = np.clip(pixels[3:5] * 0.9 + noise, 0, 255).astype(np.uint8)

    found = CopyFinder(pixels, features, labels).find(made, features[3:5])

    assert [(one.generated, one.real) for one in found] == [(0, 3), (1, 4)]
    assert all(one.distance < 0.3 for one in found)


def test_new_images_and_mixtures_of_two_real_ones_are_no_copies() -> None:
    pixels, features, labels = real_images()
    mixed = ((pixels[:10].astype(int) + pixels[10:20]) // 2).astype(np.uint8)
    other, of_other, _ = real_images()
    finder = CopyFinder(pixels, features, labels)

    assert finder.find(mixed, (features[:10] + features[10:20]) / 2) == []
    assert finder.find(other, of_other) == []


def test_equal_real_images_do_not_hide_copies() -> None:
    pixels, features, labels = real_images()
    pixels[1], features[1] = pixels[0], features[0]

    found = CopyFinder(pixels, features, labels).find(pixels[:1], features[:1])

    assert len(found) == 1
