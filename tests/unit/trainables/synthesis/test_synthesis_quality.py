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
    recognise,
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
    assert found.variety == pytest.approx(1, abs=0.05)
    assert found.nearest == pytest.approx(1, abs=0.05)
    assert describe_collapse(found) == ""


@pytest.mark.parametrize("modes", [1, 3, 10])
def test_few_images_again_and_again_are_a_collapse_in_plain_words(modes: int) -> None:
    real, noise = draw(60), draw(60, scale=0.1)

    found = compare(real, real[np.arange(60) % modes] + noise)

    assert found is not None
    assert "a few images come again and again" in describe_collapse(found)
    assert found.precision > 0.9
    assert found.nearest < 0.3, "and they are copies"


def test_images_that_a_probe_takes_for_other_classes_are_a_collapse_too() -> None:
    found = compare(draw(50), draw(50))

    said = describe_collapse(found, recognised=0.1, num_classes=4)

    assert "look like those of other classes" in said
    assert "takes 10% of them for this class, and chance is 25%" in said
    assert describe_collapse(found, recognised=0.3, num_classes=4) == ""


def test_probe_of_real_images_recognises_the_classes_however_few_images_they_have() -> None:
    labels = np.repeat([0, 1], [80, 8])
    real, fake, made = draw(88), draw(40), np.repeat([0, 1], 20)
    real[labels == 1] += 3
    fake[made == 1] += 3

    assert recognise(real, labels, fake, made).mean() > 0.95
    assert recognise(real, labels, fake, 1 - made).mean() < 0.05


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


def real_images() -> tuple[np.ndarray, np.ndarray]:
    """Pixels of 30 different images and their classes."""
    coarse = RANDOM.integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2), np.repeat([0, 1], 15)


def test_copies_are_found_whatever_their_colour_contrast_and_side_with_the_image_they_repeat() -> None:
    pixels, labels = real_images()
    noisy = pixels[3] * 0.6 + RANDOM.normal(0, 12, pixels[3].shape) + [40, 0, 20]
    made = np.stack([noisy, pixels[4, :, ::-1], pixels[20, :, :, ::-1]]).clip(0, 255).astype(np.uint8)

    found = CopyFinder(pixels, labels).find(made)

    assert [(one.generated, one.real) for one in found] == [(0, 3), (1, 4), (2, 20)]
    assert all(one.distance < 0.4 for one in found)


def test_new_images_and_mixtures_of_two_real_ones_are_no_copies() -> None:
    pixels, labels = real_images()
    mixed = ((pixels[:10].astype(int) + pixels[10:20]) // 2).astype(np.uint8)
    finder = CopyFinder(pixels, labels)

    assert finder.find(mixed) == []
    assert finder.find(real_images()[0]) == []
    assert finder.find(np.full((2, 32, 32, 3), 128, np.uint8)) == [], "plain grey"


def test_equal_real_images_do_not_hide_copies() -> None:
    pixels, labels = real_images()
    pixels[1] = pixels[0]

    found = CopyFinder(pixels, labels).find(pixels[:1])

    assert len(found) == 1
