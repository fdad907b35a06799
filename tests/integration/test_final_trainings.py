"""Final trainings on a real Ray, killed in the middle and continued, come to what they would have anyway."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from analysis.finals import load_finals
from analysis.reading import load_study
from contract.finals import FinalKind
from contract.messages import State
from contract.study_layout import StudyPaths
from tests.integration.finals_driver import make_searched_study
from tests.tiny_data import write_images
from trainables.data.manifest import read_manifest
from trainables.training.checkpoints import load_state

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0
ASKED = ("--seeds", "1", "--folds", "2", "--refit")


def start(study: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.finals_driver", str(study), *ASKED]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, env=os.environ
    )


def kill(driver: subprocess.Popen[str]) -> None:
    """Kill the driver and all of its Ray."""
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    for process in family:
        if process.is_running():
            process.kill()


def wait_for(study: Path, sql: str, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and driver.poll() is None:
        with closing(sqlite3.connect(f"file:{study}/study.db?mode=ro", uri=True)) as connection:
            if connection.execute(sql).fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError(driver.communicate()[0])


def results_of(study: Path) -> dict[str, dict[str, Any]]:
    paths = StudyPaths(study)
    return {
        row.training.name: {
            "state": row.state,
            "epochs": row.epochs,
            "kept": row.kept_at_epoch,
            "metrics": {k: v for k, v in row.metrics.items() if "loss" in k or "accuracy" in k},
            "trained": (load_state(paths.final(row.final).weights) or {})["trained"],
        }
        for row in load_finals(load_study(study))
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_continued_they_are_what_they_would_have_been(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    killed, calm = (make_searched_study(tmp_path / name, images=images) for name in ("killed", "calm"))
    driver = start(killed)
    begun = "SELECT count(*) >= 2 FROM finals WHERE state = 'complete'"
    wait_for(killed, begun, driver)
    kill(driver)
    done = {row.final for row in load_finals(load_study(killed)) if row.state is State.COMPLETE}
    weights = {number: StudyPaths(killed).final(number).weights.stat().st_mtime_ns for number in done}

    drivers = [start(killed), start(calm)]
    told = [one.communicate(timeout=PATIENCE_SECONDS)[0] for one in drivers]

    assert [one.returncode for one in drivers] == [0, 0], told
    assert 2 <= len(done) < 8
    for number, written in weights.items():  # what had ended did not run again
        assert StudyPaths(killed).final(number).weights.stat().st_mtime_ns == written
    one, other = results_of(killed), results_of(calm)
    assert len(one) == 8
    assert one.keys() == other.keys()
    for name, result in one.items():
        assert result["state"] is State.COMPLETE
        trained = result.pop("trained"), other[name].pop("trained")
        assert result == other[name]
        assert all(torch.equal(tensor, trained[1][key]) for key, tensor in trained[0].items()), name
    check_files(killed)
    assert not list(killed.glob("finals/*/checkpoint*"))


def check_files(study: Path) -> None:
    """The folds of a trial predict each image of train and val once; a refit leaves nothing to choose by."""
    manifest = read_manifest(StudyPaths(study).manifest, ("blue", "green", "red"))
    searched = np.flatnonzero(manifest.splits != "test")
    finals = load_finals(load_study(study))
    for source in (0, 1):
        folds = [
            row for row in finals if row.training.kind is FinalKind.FOLD and row.training.source == source
        ]
        ids = [np.load(StudyPaths(study).final(row.final).predictions)["ids"] for row in folds]
        assert np.array_equal(np.sort(np.concatenate(ids)), searched)
    for row in finals:
        paths = StudyPaths(study).final(row.final)
        is_refit = row.training.kind is FinalKind.REFIT
        assert paths.predictions.exists() is not is_refit
        assert paths.fitted_predictions.exists() is is_refit
        assert row.is_selectable is (row.training.kind is FinalKind.SEED)
        fixed = {FinalKind.SEED: 12, FinalKind.FOLD: 5, FinalKind.REFIT: 5}
        assert row.epochs == (fixed[row.training.kind] if row.training.source else 8)
