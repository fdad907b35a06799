"""A new MLflow file has all its tables or does not exist, whenever its writer is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analysis.tracking import sync
from tests.study_factory import FakeTrial, make_study

mlflow = pytest.importorskip("mlflow")
ROOT = Path(__file__).parents[2]

KILLED_AMONG_TABLES = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from analysis.tracking import sync

@event.listens_for(Engine, "after_cursor_execute")
def end(connection, cursor, statement, *others):
    if "CREATE TABLE issues" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

sync(Path(sys.argv[1]))
"""
SYNC = "import sys; from pathlib import Path; from analysis.tracking import sync; sync(Path(sys.argv[1]))"


def run(program: str, study: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(study)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_writer_that_is_killed_while_mlflow_makes_its_tables_leaves_no_half_file(tmp_path: Path) -> None:
    study = make_study(tmp_path / "one", [FakeTrial(curve=[0.5])])

    killed = run(KILLED_AMONG_TABLES, study)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert "run" in sync(study)
    assert "up to date" in sync(study)


def test_two_studies_that_make_one_file_at_once_both_stand_in_it(tmp_path: Path) -> None:
    studies = [make_study(tmp_path / name, [FakeTrial(curve=[0.5])]) for name in ("one", "two")]

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda study: run(SYNC, study), studies))

    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {"one", "two"} <= {one.name for one in client.search_experiments()}
    assert not list(tmp_path.glob(".mlflow.db.*"))
