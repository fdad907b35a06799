"""A study is copied from a cluster through a job's log: whole, consistent, and readable by itself."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.leaderboard import load_leaderboard
from analysis.studies import load_study
from cluster import study_copy
from cluster.study_copy import extract, main, pack_study
from tests.study_factory import FakeTrial, make_study

TRIALS = (FakeTrial(curve=(0.5, 0.7)), FakeTrial(curve=(0.6, 0.9)), FakeTrial(curve=(0.2,), outcome="pruned"))


class PackingJob:
    """Answers as the job server does whose one job has printed these lines."""

    def __init__(self, lines: Sequence[str], *, exit_code: int = 0) -> None:
        self.lines, self.exit_code = lines, exit_code

    async def follow(self, job: str) -> AsyncIterator[str]:
        text = "Running entrypoint\n" + "".join(f"{line}\n" for line in self.lines)
        for start in range(0, len(text), 999):  # pieces end anywhere
            yield text[start : start + 999]

    def job(self, job: str) -> Any:
        status = "SUCCEEDED" if self.exit_code == 0 else "FAILED"
        return SimpleNamespace(status=status, driver_exit_code=self.exit_code, message="")


def receive(job: PackingJob, package: Path) -> None:
    asyncio.run(study_copy._receive(job, "packing", package))  # type: ignore[arg-type]


def test_a_copied_study_has_the_same_leaderboard_and_only_what_is_needed(tmp_path: Path) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    (study / "trials/0").mkdir(parents=True, exist_ok=True)
    (study / "trials/0/checkpoint_1.pt").write_text("large")
    (study / "trials/0/predictions.npz").write_text("kept")

    receive(PackingJob(list(pack_study(study))), tmp_path / "study.tar.gz")
    with tarfile.open(tmp_path / "study.tar.gz") as archive:
        extract(archive, tmp_path / "here")
    copy = tmp_path / "here" / study.name

    assert load_leaderboard([load_study(copy)]) == load_leaderboard([load_study(study)])
    assert json.loads((copy / "study.json").read_text())["storage"] == "sqlite:///study.db"
    assert (copy / "trials/0/predictions.npz").read_text() == "kept"
    assert not (copy / "trials/0/checkpoint_1.pt").exists()


def test_a_lost_line_is_noticed(tmp_path: Path) -> None:
    lines = list(pack_study(make_study(tmp_path / "there", TRIALS)))

    with pytest.raises(ValueError, match="not whole"):
        receive(PackingJob(lines[1:]), tmp_path / "study.tar.gz")


def test_a_study_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()

    with pytest.raises(ValueError, match=f"^no study at {tmp_path}$"):
        receive(PackingJob(said, exit_code=1), tmp_path / "study.tar.gz")
