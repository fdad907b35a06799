"""Searches on machines as people have them: odd environments and names, moved data, requests to end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def words(photos: Path, runs: Path, *flags: str) -> list[str]:
    search = ("--space", "demo", "--data", str(photos), "--study", "mine", "--image-size", "32")
    places = ("--runs-dir", str(runs), "--cache-dir", str(photos.parent / "cache"))
    return [sys.executable, "tune.py", *search, *places, "--max-epochs", "1", *flags]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )


def test_a_hostile_environment_and_names_of_any_bytes_end_with_a_model(tmp_path: Path) -> None:
    photos = write_images(tmp_path / os.fsdecode(b"f\xfcr %20 #[x]?\n-photos"))
    (photos / "red").rename(photos / os.fsdecode(b"r\xf6t"))
    (photos / "blue" / "00.png").rename(photos / "blue" / os.fsdecode(b"\xff\xe9.png"))
    (photos / "green" / os.fsdecode(b"\xe9bad.png")).write_bytes(b"no image")
    long = tmp_path / ("x" * 100)
    long.mkdir()
    hostile = {
        **dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9"),
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "RAY_ADDRESS": "10.1.1.1:6379",
        "MLFLOW_EXPERIMENT_ID": "77",
        "MLFLOW_RUN_ID": "abc",
        "MLFLOW_REGISTRY_URI": f"sqlite:///{tmp_path / 'registry.db'}",
        "TMPDIR": str(long),
        "OMP_NUM_THREADS": "7",
        "CUDA_VISIBLE_DEVICES": "GPU-gone",
        "HF_HOME": "/proc/none",
        "TORCH_HOME": "/proc/none",
    }
    command = " ".join(["ulimit -n 256; exec", '"$@"'])

    done = run(
        ["bash", "-c", command, "bash", *words(photos, tmp_path / "runs #ü", "--trials", "1")], **hostile
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "MLflow model: models:/" in done.stdout
    for name in ("RAY_ADDRESS", "MLFLOW_EXPERIMENT_ID, MLFLOW_RUN_ID", "OMP_NUM_THREADS=7", "TMPDIR"):
        assert sum(name in line for line in done.stderr.splitlines()) == 1, done.stderr
    assert (tmp_path / "registry.db").exists()
    facts = json.loads((tmp_path / "runs #ü" / "mine" / "study.json").read_text(encoding="utf-8"))
    assert facts["data"]["source"] == str(photos)


def ask_to_end(
    command: list[str], number: signal.Signals, *, after: str, then: Callable[[str], None] = lambda _: None
) -> None:
    """Start a search, send it the signal after a line, and check that it ends and leaves no process.

    Args:
        then: is called with every line before.
    """
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as asked:
        assert asked.stdout is not None
        shown = ""
        while after not in shown:
            line = asked.stdout.readline()
            assert line, shown
            shown += line
            then(line)
        children = psutil.Process(asked.pid).children(recursive=True)
        asked.send_signal(number)
        shown += asked.stdout.read()

    assert asked.returncode == 130, shown
    assert "run the same command to continue" in shown
    assert "Traceback" not in shown
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_search_goes_on_after_a_deleted_cache_a_request_to_end_and_a_move(tmp_path: Path) -> None:
    """One search meets all three: each alone would cost two more searches."""
    photos, cache = write_images(tmp_path / "photos"), tmp_path / "cache"

    def delete_cache(line: str) -> None:
        if "trial 0 complete" in line:
            shutil.rmtree(cache, ignore_errors=True)

    limits = ("--trials", "80", "--concurrent", "1")  # each takes a tenth of a second
    command = words(photos, tmp_path / "runs", *limits)
    ask_to_end(command, signal.SIGTERM, after="trial 1 complete (2/80)", then=delete_cache)

    moved = photos.rename(tmp_path / "moved %20 photos")
    runs = (tmp_path / "runs").rename(tmp_path / "moved runs")
    shutil.rmtree(cache, ignore_errors=True)
    more = words(moved, runs, "--trials", "81")
    shutil.copy(moved / "red" / "00.png", tmp_path / "kept.png")
    shutil.copy(moved / "blue" / "01.png", moved / "red" / "00.png")
    replaced = run(more)
    shutil.copy(tmp_path / "kept.png", moved / "red" / "00.png")
    (moved / "red" / "new.png").write_bytes((moved / "red" / "01.png").read_bytes() + b" ")
    added = run(more)
    (moved / "red" / "new.png").unlink()
    repaired = run(more)

    assert (replaced.returncode, added.returncode, repaired.returncode) == (2, 2, 0), repaired.stderr
    assert "red/00.png" in replaced.stderr
    assert "1 added (red/new.png)" in added.stderr
    assert "(81/81)" in repaired.stdout
    assert "trial 0 complete" not in repaired.stdout and "trial 1 complete" not in repaired.stdout
    assert "MLflow model: models:/" in repaired.stdout, repaired.stderr


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGHUP, "early stopping"),  # before Ray has started
        (signal.SIGTERM, "same for all"),  # the results are being made
    ],
)
def test_a_search_that_is_asked_to_end_early_or_late_goes_on(
    number: signal.Signals, after: str, tmp_path: Path, full: bool
) -> None:
    if not full:
        pytest.skip("a minute each: --full")
    photos = write_images(tmp_path / "photos")
    command = words(photos, tmp_path / "runs", "--trials", "2", "--concurrent", "1")

    ask_to_end(command, number, after=after)

    again = run(command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "runs" / "mine" / "model" / "classifier.pt2").exists()


def test_a_search_that_ctrl_z_stops_for_a_while_goes_on(tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("a minute: --full")
    command = words(write_images(tmp_path / "photos"), tmp_path / "runs", "--trials", "1")

    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as stopped:
        assert stopped.stdout is not None
        shown = next(line for line in stopped.stdout if "early stopping" in line)
        os.killpg(stopped.pid, signal.SIGTSTP)
        time.sleep(5)
        os.killpg(stopped.pid, signal.SIGCONT)
        shown += stopped.stdout.read()

    assert stopped.returncode == 0, shown


def can_mount() -> bool:
    """Whether this process may give a command a mount of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ("unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/dev/shm")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="only root may mount")
@pytest.mark.parametrize(
    ("place", "size", "line"),
    [("/dev/shm", "64k", "best classifier"), ("/tmp", "600k", "no space is left")],
)
def test_little_shared_memory_or_a_nearly_full_tmp_still_end_with_a_model(
    place: str, size: str, line: str, full: bool
) -> None:
    if not full:
        pytest.skip("a minute each: --full")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # the other /tmp is empty
        command = words(write_images(Path(folder) / "photos"), Path(folder) / "runs", "--trials", "2")
        mount = f'mount -t tmpfs -o size={size} tmpfs {place} && exec "$@"'

        done = run(["unshare", "-m", "sh", "-c", mount, "sh", *command])

        shown = done.stdout + done.stderr
        assert done.returncode == 0, shown
        assert line in shown
        assert "Traceback" not in shown
        assert (Path(folder) / "runs" / "mine" / "model" / "classifier.pt2").exists()
