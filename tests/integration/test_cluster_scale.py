"""The benchmark of scale, in small: simulated trials on real nodes, and the figures made from them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_scale import main
from benchmarks.simulated.measurement import find_utilisation
from benchmarks.simulated.postgresql import find_binaries
from cluster.study.records import EpochRecord, TrialRecord, TrialState
from contract.messages import EpochDecision


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    assert main(flags) == 0
    runs: list[dict[str, Any]] = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])["runs"]
    return runs


def trial(number: int, *, process: int, began: list[float], handed_out: float) -> TrialRecord:
    epochs = {}
    for epoch, moment in enumerate(began, start=1):
        metrics = {"began": moment, "epoch_seconds": 4.0, "process": float(process)}
        goes_on, arrival = EpochDecision.CONTINUE, moment + 4
        epochs[epoch] = EpochRecord(
            trial=number, epoch=epoch, attempt=1, metrics=metrics, arrival=arrival, decision=goes_on
        )
    attrs = {"attempt_started": handed_out}
    return TrialRecord(number=number, state=TrialState.COMPLETE, attrs=attrs, epochs=epochs)


def test_slots_count_from_when_all_are_busy_to_when_the_last_trial_is_handed_out() -> None:
    records = [
        trial(0, process=1, began=[100, 105], handed_out=90),
        trial(1, process=2, began=[104, 108.5], handed_out=90),
        trial(2, process=1, began=[111], handed_out=110),
    ]

    use = find_utilisation(records, slots=2, began=90)

    # From 104 to 110. Process 1 rests from 104 to 105 and from 109 on, process 2 from 108 to 108.5.
    assert (use.ramp_up_seconds, use.window_seconds, use.workers) == (14, 6, 2)
    assert use.share == pytest.approx((4 + 5.5) / 12)
    assert use.between_epochs[0] == pytest.approx(0.5)


def test_the_search_alone_is_measured_without_ray(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (result,) = run(capsys, "--without-ray", "--trials", "40", "--slots", "4", "--folder", str(tmp_path))

    assert [row["trials"] for row in result["tenths"]] == list(range(4, 41, 4))
    assert result["results"] >= 40
    assert all(result["cpu_ms_a_result"][part] > 0 for part in ("database", "sampler", "search"))


@pytest.mark.slow
def test_postgresql_is_measured_beside_sqlite_with_mlflow_in_a_process(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if find_binaries() is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or psycopg is not installed")
    flags = ("--without-ray", "--postgresql", "--tracking", "process", "--trials", "16", "--slots", "4")

    runs = run(capsys, *flags, "--folder", str(tmp_path))

    assert [one["database"] for one in runs] == ["SQLite", "PostgreSQL"]
    assert runs[0]["results"] == runs[1]["results"]
    assert runs[0]["counts"] == runs[1]["counts"]
    assert all(one["cpu_ms_a_result"]["mlflow"] > 0 for one in runs)
    assert all(one["tracking_caught_up_after_seconds"] is not None for one in runs)


@pytest.mark.slow
def test_all_workers_come_up_while_the_first_ones_end_trials(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ("--trials", "24", "--slots", "4", "--nodes", "2", "--epoch-seconds", "0.5")

    (result,) = run(capsys, *flags, "--sample-seconds", "2", "--folder", str(tmp_path))

    assert (result["ending"], result["nodes"]) == ("finished", 2)
    assert result["counts"]["complete"] + result["counts"]["pruned"] == 24
    assert result["utilisation"]["workers"] == 4
    assert 0.2 < result["utilisation"]["share"] <= 1
    assert result["calls"]["receive"]["calls"] == result["results"]
    assert result["tracking_caught_up_after_seconds"] is not None
