"""One temperature: found where it was planted, harmless where there is none, never a new label."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.calibration.temperature import HIGHEST, LOWEST, calibrate, fit_temperature, log_loss
from contract.answer import apply_temperature, normalise


def draw(num: int, *, temperature: float, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities that are right once they are divided by the temperature, and labels drawn so."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num, classes)) * 3
    shares = np.exp(normalise(logits)).cumsum(axis=1)
    labels = (shares > generator.random(num)[:, None]).argmax(axis=1)
    return normalise(logits * temperature), labels


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0, 4.0])
def test_a_planted_temperature_is_found(planted: float) -> None:
    log_probabilities, labels = draw(4000, temperature=planted)

    assert fit_temperature(log_probabilities, labels) == pytest.approx(planted, rel=0.08)


def test_cross_fitting_tells_the_loss_on_new_images() -> None:
    log_probabilities, labels = draw(1500, temperature=2.5)
    new, new_labels = draw(20_000, temperature=2.5, seed=1)

    found = calibrate(log_probabilities, labels, np.arange(1500))

    assert found.helps and found.error_after < found.error_before / 2
    after = log_loss(apply_temperature(new, found.temperature), new_labels)
    assert found.loss_after == pytest.approx(after, abs=0.04)
    assert "log-loss" in found.describe()


def test_a_temperature_that_does_not_help_is_not_used() -> None:
    used = []
    for seed in range(20):
        log_probabilities, labels = draw(60, temperature=1.0, seed=seed)
        found = calibrate(log_probabilities, labels, np.arange(60))
        assert (found.temperature != 1.0) == found.helps
        used.append(found.helps)

    assert sum(used) < 10


def test_images_that_are_all_right_do_not_make_the_model_certain() -> None:
    labels = np.arange(100) % 4
    shares = np.full((100, 4), 0.1 / 3)
    shares[np.arange(100), labels] = 0.9

    sure = apply_temperature(np.log(shares), fit_temperature(np.log(shares), labels))

    assert 0.98 < np.exp(sure.max()) < 0.998  # 100 of 100 right: about one of a hundred may be wrong


def test_the_label_stays() -> None:
    log_probabilities, labels = draw(500, temperature=3.0)
    found = calibrate(log_probabilities, labels, np.arange(500))

    after = apply_temperature(log_probabilities, found.temperature)

    assert found.temperature != 1.0
    assert (after.argmax(axis=1) == log_probabilities.argmax(axis=1)).all()


def test_copies_of_an_image_are_never_on_both_sides() -> None:
    log_probabilities, labels = draw(12, temperature=1.0, seed=3)
    copied, groups = np.repeat(np.arange(12), 40), np.repeat(np.arange(12), 40)

    alone = calibrate(log_probabilities[copied], labels[copied], np.arange(480))
    together = calibrate(log_probabilities[copied], labels[copied], groups)

    assert together.num_groups == 12
    assert together.loss_after > alone.loss_after


@pytest.mark.parametrize("num", [0, 1, 9])
def test_few_images_keep_the_temperature_of_1_and_say_why(num: int) -> None:
    log_probabilities, labels = draw(num, temperature=2.0)

    found = calibrate(log_probabilities, labels, np.arange(num))

    assert found.temperature == 1.0 and "too few" in found.describe()


def test_one_class_has_nothing_to_calibrate() -> None:
    found = calibrate(np.zeros((50, 1)), np.zeros(50, np.int64), np.arange(50))

    assert found.temperature == 1.0 and "one class" in found.note


def test_probabilities_of_0_give_finite_losses() -> None:
    log_probabilities, labels = draw(100, temperature=1.0)
    with np.errstate(divide="ignore"):
        cut = np.log(np.where(np.exp(log_probabilities) < 0.2, 0.0, np.exp(log_probabilities)))

    found = calibrate(cut, labels, np.arange(100))

    assert np.isneginf(cut[np.arange(100), labels]).any()
    assert LOWEST <= found.fitted <= HIGHEST
    assert np.isfinite([found.loss_before, found.loss_after, found.error_after]).all()


def test_answers_that_are_all_wrong_end_at_the_highest_temperature() -> None:
    labels = np.zeros(200, np.int64)
    logits = np.zeros((200, 3))
    logits[:, 1] = 30.0

    assert fit_temperature(normalise(logits), labels) == pytest.approx(HIGHEST, rel=0.01)
