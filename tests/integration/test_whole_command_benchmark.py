"""The comparison of whole commands as a user runs it, on images small enough for every push."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_experts_and_tune_py_search_the_same_digits_and_hand_over_what_is_tested(
    tmp_path: Path, full: bool
) -> None:
    if not full:
        pytest.skip("two minutes of three whole searches (--full)")
    file = tmp_path / "whole.json"
    command = (
        "whole_command --data digits --images 100 --test-images 50 --image-size 32 --epochs 2 --trials 4"
    )
    command += f" --no-warm-up --cpus 2 --caching --json {file}"

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *command.split()], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert "end of the command (s)" in run.stdout
    found = json.loads(run.stdout.splitlines()[-1])
    (trials,) = found["trials"]
    assert json.loads(file.read_text())["trials"] == found["trials"]
    (runs,) = trials["runs"]
    ours = runs["ours"]
    assert list(runs) == ["expert", "caching", "ours"]
    for one in runs.values():
        assert 0 < one["decoded_seconds"] < one["first_report_seconds"] <= one["last_report_seconds"]
        assert one["last_report_seconds"] < one["seconds"]
        assert one["best_val_accuracy"] > 0.2  # a tenth of the digits are guessed
        assert one["test_accuracy"] > 0.2
        assert one["curve"][-1] == [one["curve"][-1][0], one["best_val_accuracy"]]
    assert ours["last_report_seconds"] < ours["export_seconds"] < ours["seconds"]
    assert ours["last_report_seconds"] < ours["page_seconds"] < ours["seconds"]
    assert ours["trials"] == 4
