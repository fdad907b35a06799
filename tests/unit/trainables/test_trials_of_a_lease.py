"""Heads that share a lease compute what each would alone, and end at the epoch that the search has set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contract.messages import Report, StudySettings
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.lease import LeasedRun, take_turns
from trainables.training.checkpoints import load_state

Reports = list[Report]
PROBE = {"regime": "linear_probe", "unfreeze_depth": 0}
HEADS: list[dict[str, Any]] = [
    {"batch_size": 8, "learning_rate": 3e-3},
    {"batch_size": 8, "learning_rate": 1e-3, "dropout": 0.5},
    {"batch_size": 4, "learning_rate": 1e-3, "dropout": 0.2, "head_width": 16},
    {"batch_size": 8, "learning_rate": 2e-3, "head_width": "16-8", "head_batch_norm": True},
    {"batch_size": 6, "optimizer": "sgd", "schedule": "constant", "ema_decay": 0.5, "label_smoothing": 0.1},
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("turns"), fits=("crop",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lease_of(
    settings: StudySettings, heads: dict[int, dict[str, Any]], *, attempt: int = 1, **changes: Any
) -> list[LeasedRun]:
    leases = [
        replace(
            make_lease(number, attempt=attempt, **PROBE, max_epochs=3, **head),
            **{"until_epoch": 3, **changes},
        )
        for number, head in heads.items()
    ]
    return start_trials(settings, *leases)


def run_through(runs: list[LeasedRun]) -> Reports:
    reports: Reports = []
    while any(not run.finished for run in runs):
        reports += take_turns(runs)
    return reports


def numbers_of(reports: Reports, trial: int) -> list[dict[str, float]]:
    timings = ("epoch_seconds", "images_per_second", "peak_memory_gb")
    return [
        {name: value for name, value in report.metrics.items() if name not in timings}
        for report in reports
        if report.trial % 100 == trial
    ]


def left_behind(settings: StudySettings, trial: int) -> tuple[dict[str, Any], np.ndarray]:
    paths = settings.trial_paths(trial)
    model = load_state(paths.weights)
    assert model is not None
    with np.load(paths.predictions) as file:
        return model, file["log_probabilities"]


def test_what_a_head_computes_does_not_depend_on_who_shares_its_lease(settings: StudySettings) -> None:
    together = run_through(lease_of(settings, dict(enumerate(HEADS))))
    kept = [left_behind(settings, number) for number in range(len(HEADS))]

    for number, head in enumerate(HEADS):
        alone = run_through(lease_of(settings, {number: head}, attempt=2, until_epoch=None))

        model, log_probabilities = left_behind(settings, number)
        assert numbers_of(together, number) == numbers_of(alone, number)
        assert len(numbers_of(alone, number)) == 3
        assert np.array_equal(kept[number][1], log_probabilities)
        for name, tensor in model["trained"].items():
            assert torch.equal(tensor, kept[number][0]["trained"][name]), name


def test_a_lease_ends_at_its_epoch_with_checkpoints_and_the_next_goes_on_from_there(
    settings: StudySettings,
) -> None:
    heads = {10: HEADS[0], 11: HEADS[1]}
    first = lease_of(settings, heads, until_epoch=1, checkpoint_epochs=[1])
    reports = run_through(first)

    again = lease_of(settings, heads, attempt=2, done_epochs=1)
    rest = run_through(again)

    assert [(report.trial, report.epoch, report.outcome) for report in reports] == [
        (10, 1, None),
        (11, 1, None),
    ]
    assert [report.epoch for report in rest] == [2, 2, 3, 3]
    assert [report.outcome for report in rest] == [None, None, "complete", "complete"]


def test_a_trial_that_may_be_stopped_after_an_epoch_leaves_its_predictions_there(
    settings: StudySettings,
) -> None:
    head = {90: {**HEADS[0], "kept_epoch": "last"}}
    run_through(lease_of(settings, head, until_epoch=1, judged_epochs=[1]))
    paths = settings.trial_paths(90)
    with np.load(paths.predictions) as file:
        judged = file["log_probabilities"]
    assert not paths.weights.exists()

    run_through(lease_of(settings, head, attempt=2, judged_epochs=[1]))

    _, final = left_behind(settings, 90)
    assert judged.shape == final.shape
    assert not np.array_equal(judged, final)


def test_a_checkpoint_ahead_of_the_database_is_replayed_and_not_trained_beyond_the_lease(
    settings: StudySettings,
) -> None:
    run_through(lease_of(settings, {20: HEADS[0]}, until_epoch=1, checkpoint_epochs=[1]))

    replayed = run_through(lease_of(settings, {20: HEADS[0]}, attempt=2, until_epoch=1))

    assert [(report.epoch, report.attempt) for report in replayed] == [(1, 2)]


def test_one_that_fails_leaves_the_others_to_go_on(settings: StudySettings) -> None:
    heads = {30: HEADS[0], 31: {**HEADS[0], "learning_rate": 1e60}, 32: HEADS[1]}

    reports = run_through(lease_of(settings, heads))

    outcomes = {report.trial: report.outcome for report in reports}
    assert outcomes == {30: "complete", 31: "failed", 32: "complete"}
    assert next(report for report in reports if report.outcome == "failed").reason == "diverged"


def test_those_with_most_epochs_to_go_have_their_turn_first(settings: StudySettings) -> None:
    survivor, newcomer = (
        lease_of(settings, {40: HEADS[0]})[0],
        lease_of(settings, {41: HEADS[1]}, until_epoch=1)[0],
    )

    reports = run_through([newcomer, survivor])

    assert [(report.trial, report.epoch) for report in reports] == [(40, 1), (40, 2), (41, 1), (40, 3)]


def test_a_trial_of_its_own_takes_one_epoch_a_step(settings: StudySettings) -> None:
    runs = lease_of(settings, {50: HEADS[0]}, until_epoch=None)

    steps = [len(take_turns(runs)) for _ in range(3)]

    assert steps == [1, 1, 1]
    assert runs[0].finished


def test_in_lockstep_too_a_head_computes_the_same_whoever_is_beside_it(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.lease.trains_in_lockstep", lambda _: True)  # as on an accelerator
    heads = {60 + number: HEADS[number % 2] | {"learning_rate": 1e-3 * (number + 1)} for number in range(5)}

    together = run_through(lease_of(settings, heads))
    kept = {number: left_behind(settings, number) for number in heads}

    for number, head in heads.items():
        alone = run_through(lease_of(settings, {number: head}, attempt=2, until_epoch=None))
        model, log_probabilities = left_behind(settings, number)
        assert numbers_of(together, number) == numbers_of(alone, number)
        assert np.array_equal(kept[number][1], log_probabilities)
        assert all(
            torch.equal(tensor, kept[number][0]["trained"][name]) for name, tensor in model["trained"].items()
        )


def test_an_error_in_lockstep_is_the_outcome_of_each(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise KeyError("no such layer")

    monkeypatch.setattr("trainables.lease.trains_in_lockstep", lambda _: True)
    monkeypatch.setattr("trainables.lease.train_heads", broken)

    reports = run_through(lease_of(settings, {70: HEADS[0], 71: HEADS[0]}))

    assert [(report.trial, report.reason) for report in reports] == [(70, "bug"), (71, "bug")]
