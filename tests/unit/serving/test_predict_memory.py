"""The memory of predict does not grow with the number of photos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import write_noise, write_tiny_model

_MEASURE = """
import resource, sys
from serving.__main__ import main
code = main(["predict", *sys.argv[1:]])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def link_photos(folder: Path, sources: list[Path], number: int) -> None:
    """Fill folders of a thousand with hard links: as many files of few contents."""
    for at in range(number):
        part = folder / f"{at // 1000:04}"
        if at % 1000 == 0:
            part.mkdir(parents=True)
        os.link(sources[at % len(sources)], part / f"photo-{at:07}.png")


def measure_peak(model: Path, folder: Path, out: Path) -> float:
    """Peak memory in MB of a run of its own process."""
    command = [sys.executable, "-c", _MEASURE, str(model), str(folder), "--out", str(out)]
    command += ["--html", str(out.with_suffix(".html")), "--html-photos", "50", "--batch-size", "32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^peak (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_times_the_photos_need_no_more_memory(tmp_path: Path, full: bool) -> None:
    few, many = (10_000, 100_000) if full else (1_000, 10_000)
    model = write_tiny_model(tmp_path / "model").directory
    sources = [write_noise(tmp_path / f"source{seed}.png", seed=seed, side=16) for seed in range(8)]
    peaks = {}
    for number in (few, many):
        link_photos(tmp_path / str(number), sources, number)
        out = tmp_path / f"{number}.csv"
        peaks[number] = measure_peak(model, tmp_path / str(number), out)
        with out.open("rb") as file:
            assert sum(1 for _ in file) == number + 1

    print({number: round(peak, 1) for number, peak in peaks.items()})
    assert peaks[many] < peaks[few] + 20  # MB; all rows of 100,000 photos would be 60
