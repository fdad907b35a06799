"""The leaderboard benchmark, on a study small enough for every push."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, check=False
    )


def test_its_last_line_is_json_with_the_promised_figures() -> None:
    run = run_benchmark("leaderboard", "--trials", "60", "--epochs", "3", "--repeats", "1")

    figures = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == 0
    assert 0 < figures["leaderboard_s"] < figures["report_s"]
    assert 4 < figures["report_mb"] < 15


def test_an_unknown_benchmark_names_the_known_ones() -> None:
    run = run_benchmark("nope")

    assert run.returncode == 2
    assert "leaderboard" in run.stderr
