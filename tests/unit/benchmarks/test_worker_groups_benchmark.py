"""The moments between trials of several workers are read from the study that a search leaves."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.worker_groups import find_gaps, main, read_moments

EPOCHS = [(0, 1, 20.0, 1.5), (0, 2, 21.0, 0.5), (1, 1, 50.0, 2.0), (1, 2, 51.0, 0.5), (2, 1, 53.0, 0.5)]
"""(trial, epoch, arrival, seconds of the epoch)."""


def write_epochs(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE epochs (trial, epoch, attempt, metrics, arrival)")
        for trial, epoch, arrival, seconds in EPOCHS:
            row = (trial, epoch, 1, json.dumps({"epoch_seconds": seconds}), arrival)
            connection.execute("INSERT INTO epochs VALUES (?, ?, ?, ?, ?)", row)


def test_a_gap_ends_with_the_next_trials_first_update_not_with_its_first_report(tmp_path: Path) -> None:
    write_epochs(tmp_path / "study.db")

    moments = read_moments(tmp_path / "study.db")

    assert moments == [(18.5, 21.0), (48.0, 51.0), (52.5, 53.0)]
    assert find_gaps(moments) == [27.0, 1.5]


@pytest.mark.parametrize("flags", [["--trials", "1"], ["--project", "/nowhere"]])
def test_flags_that_measure_nothing_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert capsys.readouterr().err.startswith("benchmarks worker_groups: pass --trials of 2 or more")
