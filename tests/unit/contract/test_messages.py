"""Messages survive the way through Ray and JSON, and their words are those of the databases."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contract.lease_errors import interruption_of
from contract.messages import (
    Action,
    EpochDecision,
    Lease,
    LeasedTrial,
    Outcome,
    Reason,
    Report,
    State,
    StudySettings,
    make_result,
    read_reports,
)
from contract.weights_source import WeightsSource

TRIAL = LeasedTrial(
    trial=3,
    attempt=2,
    config={"backbone": "lite0", "unfreeze_depth": "all"},
    done_epochs=1,
    checkpoint_epochs=(1, 4),
    until_epoch=4,
)
SETTINGS = StudySettings(
    study_directory="/runs/flowers",
    classes=("daisy", "rose"),
    weights="auto",
    image_size=64,
    seed=0,
    metric="val_accuracy",
    maximize=True,
    cache_directory="/cache",
    cache_gigabytes=1.0,
    num_trials=8,
    threads=2,
    backbone_weights=(
        WeightsSource(kind="hub", backbone="lite0", location="timm/lite0", identity="hub:timm/lite0@1"),
    ),
    shared_depths=(0, "all"),
)


def test_a_lease_survives_json() -> None:
    lease = Lease(trials=(TRIAL, replace(TRIAL, trial=4, until_epoch=None, checkpoint_epochs=())))

    config = json.loads(json.dumps(lease.as_config(SETTINGS.as_values())))

    assert Lease.from_config(config) == lease
    assert StudySettings.from_values(config["settings"]) == SETTINGS
    assert [trial.shares_lease for trial in lease.trials] == [True, False]


def test_reports_survive_json() -> None:
    reports = [
        Report(trial=3, attempt=2, epoch=2, metrics={"val_accuracy": 0.5}, predicted=b"\x01\xff"),
        Report(trial=3, attempt=2, epoch=3, metrics={"val_accuracy": 0.6}, outcome=Outcome.COMPLETE),
        Report(trial=4, attempt=1, epoch=0, outcome=Outcome.FAILED, reason=Reason.DATA, traceback="lost"),
        Report(trial=5, attempt=1, epoch=0, outcome=Outcome.INFEASIBLE, limit="too large", excess=0.5),
    ]

    result = json.loads(json.dumps(make_result(reports, over=True)))

    assert read_reports(result) == reports
    assert result["over"] is True
    assert make_result(reports)["over"] is False


def test_a_message_holds_bare_strings() -> None:
    values = Report(trial=1, attempt=1, epoch=1, outcome=Outcome.FAILED, reason=Reason.BUG).as_values()

    assert type(values["outcome"]) is str
    assert type(values["reason"]) is str


def test_a_simple_trainable_leaves_out_what_has_a_default() -> None:
    assert Report.from_values({"trial": 1, "attempt": 1, "epoch": 2}) == Report(trial=1, attempt=1, epoch=2)


def test_an_unknown_outcome_in_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="faild"):
        Report.from_values({"trial": 1, "attempt": 1, "epoch": 2, "outcome": "faild"})


def test_the_words_are_those_of_existing_databases() -> None:
    assert set(Outcome) == {"complete", "pruned", "failed", "infeasible"}
    assert set(EpochDecision) == {"continue", "pause", "stop", "complete", "failed"}
    assert set(Reason) == {"bug", "data", "diverged", "out of memory", "accelerator", "disk full"}
    assert set(Action) == {"continue", "pause", "stop", "ignored"}


def test_every_outcome_is_a_state() -> None:
    assert set(Outcome) < set(State)
    for outcome in Outcome:
        state = State.of(outcome)
        assert state.has_ended
        assert state.has_value is outcome.has_value
    assert State.of(None) is State.RUNNING
    assert State.RUNNING.is_ranked and not State.WAITING.is_ranked and not State.FAILED.is_ranked


@pytest.mark.parametrize(
    ("outcome", "paused", "expected"),
    [
        (None, False, EpochDecision.CONTINUE),
        (None, True, EpochDecision.PAUSE),
        (Outcome.PRUNED, False, EpochDecision.STOP),
        (Outcome.INFEASIBLE, False, EpochDecision.STOP),
        (Outcome.COMPLETE, False, EpochDecision.COMPLETE),
        (Outcome.FAILED, False, EpochDecision.FAILED),
    ],
)
def test_an_epoch_is_recorded_with_what_became_of_its_trial(
    outcome: Outcome | None, paused: bool, expected: EpochDecision
) -> None:
    decision = EpochDecision.of(outcome, paused=paused)

    assert decision is expected
    assert decision.ends_trial is (outcome is not None)


def test_only_reasons_that_the_next_trial_would_meet_count_for_a_streak() -> None:
    recurring = {reason for reason in Reason if reason.is_likely_to_recur}

    assert recurring == {Reason.BUG, Reason.DATA, Reason.OUT_OF_MEMORY, Reason.ACCELERATOR}


def test_an_exception_says_whether_it_interrupts_its_lease() -> None:
    class DeviceLost(RuntimeError):
        interrupts_lease = Reason.ACCELERATOR

    assert interruption_of(DeviceLost()) is Reason.ACCELERATOR
    assert interruption_of(RuntimeError()) is None


def test_a_trial_uses_a_gpu_exactly_if_its_workers_have_a_share_of_one() -> None:
    assert not SETTINGS.use_gpu
    assert replace(SETTINGS, gpus_per_worker=0.5).use_gpu
    assert SETTINGS.trial_paths(3).directory == Path("/runs/flowers/trials/3")


def test_mypy_finds_a_misspelt_outcome(tmp_path: Path) -> None:
    source = tmp_path / "misspelt.py"
    lines = [
        "from contract.messages import Action, Decision, Outcome, Report",
        'Report(trial=1, attempt=1, epoch=1, outcome="faild")',
        'Report(trial=1, attempt=1, epoch=1, reason="bugg")',
        'Decision(trial=1, epoch=1, action="stopp")',
        "print(Outcome.FAILD)",
        "Decision(trial=1, epoch=1, action=Outcome.FAILED)",
    ]
    source.write_text("\n".join(lines), encoding="utf-8")

    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(source)]
    found = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=Path(__file__).parents[3]
    )

    errors = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert [int(line.split(":")[1]) for line in errors] == [2, 3, 4, 5, 6]
