"""The speed comparison as a user runs it, on images small enough for every push."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_data import write_images

pytestmark = pytest.mark.slow


def test_both_sides_run_the_same_trials_and_the_table_says_where_the_time_goes(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    file = tmp_path / "search.json"
    command = "search --case depths3 --images 30 --image-size 32 --epochs 1 --trials 2 --plain-trials 1"
    command += f" --no-warm-up --profile --cpus 2 --data {data} --json {file}"

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert "depths3, repeat 1 of 1: ours" in run.stderr
    assert "1 trials, scaled" in run.stdout
    found = json.loads(run.stdout.splitlines()[-1])
    (case,) = found["cases"]
    assert case["plain_seconds"]["median"] > 0
    assert case["ours_seconds"]["median"] > case["ours_first_report_seconds"]["median"] > 0
    assert case["accuracy"]["trials"] == 1
    written = json.loads(file.read_text())
    (plain,), (ours,) = written["plain_runs"].values(), written["our_runs"].values()
    same = ("unfreeze_depth", "learning_rate", "batch_size", "dropout", "policy", "max_epochs")
    for theirs, own in zip(plain[0]["trials"], ours[0]["trials"], strict=False):
        assert {name: theirs[name] for name in same} == {name: own[name] for name in same}
    shares = {row["what"]: row["seconds"] for row in found["profile"]["depths3"] if row["where"] == "workers"}
    assert shares["training suffix and head"] > 0
    assert shares["frozen prefixes"] > 0
    assert shares["imports"] > 0
