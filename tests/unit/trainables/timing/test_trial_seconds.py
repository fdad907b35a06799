"""Seconds of trials follow from the pace of their backbone, what others computed, and the slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainables.model.backbones import find_backbone
from trainables.timing.memory import NUM_SAMPLES, Pass, SpeedMemory
from trainables.timing.pace import ASSUMED, MEASURED, OTHER_BACKBONE, OTHER_SIZE, Pace, find_pace
from trainables.timing.trial_seconds import TRIAL_SECONDS, simulate, trial_seconds

PACE = Pace(forward=0.01, training={"0": 0.0, "2": 0.006, "all": 0.03}, spread=MEASURED)
HERE: dict[str, Any] = {"device": "cpu", "threads": 1}


def seconds(**config: Any) -> Any:
    values = {"backbone": "lite0", "unfreeze_depth": 0, "max_epochs": 3} | config
    return trial_seconds(values, PACE, num_train=900, num_val=300)


def test_a_head_takes_one_pass_over_plain_images_and_one_an_epoch_over_augmented_ones() -> None:
    plain, augmented = seconds(), seconds(policy="light")

    assert plain.alone == pytest.approx(TRIAL_SECONDS + 900 * 0.01 + 300 * 0.01)
    assert augmented.alone == pytest.approx(TRIAL_SECONDS + 3 * 900 * 0.01 + 300 * 0.01)


def test_all_depths_share_a_pass_and_the_whole_network_needs_none() -> None:
    shared = seconds(unfreeze_depth=2)

    assert shared.passes == seconds().passes
    assert shared.own == pytest.approx(TRIAL_SECONDS + 3 * (900 + 100) * 0.006)
    assert not seconds(unfreeze_depth="all").passes


def test_fewer_steps_an_epoch_and_fewer_validation_images_take_less() -> None:
    short = seconds(unfreeze_depth="all", steps_per_epoch=10, batch_size=30, validation_images=30)

    assert short.own == pytest.approx(TRIAL_SECONDS + 3 * (300 + 10) * 0.03)


def test_nearest_neighbours_take_one_epoch_and_mixed_batches_pay_every_pass() -> None:
    assert seconds(regime="knn").epochs == 1
    assert seconds(mixup_alpha=0.1).own == pytest.approx(seconds().alone)


def test_trials_wait_for_slots_and_find_what_others_computed() -> None:
    trial = seconds()

    one = simulate([trial] * 4, slots=1)
    two = simulate([trial] * 4, slots=2)

    assert one.seconds == pytest.approx(trial.alone + 3 * TRIAL_SECONDS)
    assert one.num_complete == two.num_complete == 4
    assert two.seconds == pytest.approx(trial.alone)
    assert two.first_seconds == pytest.approx(TRIAL_SECONDS)


def test_what_cannot_end_within_the_limit_is_passed_over() -> None:
    course = simulate([seconds(unfreeze_depth="all"), seconds()], slots=1, limit=20.0)

    assert course.num_complete == 1
    assert course.seconds == pytest.approx(seconds().alone)


@pytest.fixture
def memory(tmp_path: Path) -> SpeedMemory:
    return SpeedMemory(tmp_path)


def a_pass(**changes: Any) -> str:
    values = {"backbone": "lite0", "image_size": 128, "depth": None, **HERE} | changes
    return Pass(**values).key


def test_a_pace_is_measured_scaled_concluded_or_assumed(memory: SpeedMemory) -> None:
    lite0, resnet = find_backbone("lite0"), find_backbone("resnet50")

    assumed = find_pace(lite0, image_size=128, memory=memory, **HERE)
    memory.note({a_pass(): 0.004, a_pass(depth=4): 0.01})
    measured = find_pace(lite0, image_size=128, memory=memory, **HERE)
    scaled = find_pace(lite0, image_size=256, memory=memory, **HERE)
    concluded = find_pace(resnet, image_size=128, memory=memory, **HERE)

    assert [pace.spread for pace in (assumed, measured, scaled, concluded)] == [
        ASSUMED,
        MEASURED,
        OTHER_SIZE,
        OTHER_BACKBONE,
    ]
    assert (measured.forward, measured.train(4)) == (0.004, 0.01)
    assert (scaled.forward, scaled.train(4)) == (0.016, 0.04)
    assert concluded.forward == pytest.approx(0.004 * 4.09 / 0.384)
    assert 0 < measured.train(1) < measured.train(2) < measured.train("all")


def test_other_devices_and_numbers_of_threads_are_other_figures(memory: SpeedMemory) -> None:
    memory.note({a_pass(): 0.004})

    assert not memory.passes(backbone="lite0", device="gpu", threads=1)
    assert not memory.passes(backbone="lite0", device="cpu", threads=2)


def test_newest_samples_are_kept_for_later_commands_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    memory = SpeedMemory(tmp_path)
    for sample in range(1, NUM_SAMPLES + 4):
        memory.note([("closing", float(sample))])

    again = SpeedMemory(tmp_path)
    assert again.least_seconds("closing") == 4
    assert again.seconds("closing") == NUM_SAMPLES + 1

    again.path.write_text("{", encoding="utf-8")
    assert SpeedMemory(tmp_path).seconds("closing") is None
