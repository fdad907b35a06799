"""The tests in tests/gpu hold on a CPU, too, and need none of the libraries that a GPU machine may lack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LACKING = ("ray", "optuna", "mlflow", "sklearn", "rich", "pandas", "fsspec", "scipy", "psutil")
BLOCK = f"""
from functools import partial
from importlib.machinery import PathFinder


def find(original, name, *rest):
    return None if name.partition(".")[0] in {LACKING!r} else original(name, *rest)


PathFinder.find_spec = partial(find, PathFinder.find_spec)  # pytest keeps it in a class: no plain function
"""
"""Python runs this at its start, in the tests and in the processes that they start."""


def check(tmp_path: Path, *, device: str) -> subprocess.CompletedProcess[str]:
    """`make gpu-check` where the libraries are lacking, also for the processes that it starts."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    environment = os.environ | {
        "UNFREEZE_TEST_DEVICE": device,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/gpu.ini", "--confcutdir=tests/gpu"]
    command += ["-p", "no:cacheprovider", "tests/gpu"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_gpu_tests_pass_on_a_cpu_without_the_libraries_of_a_search(tmp_path: Path) -> None:
    done = check(tmp_path, device="cpu")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "Ray is not installed" in done.stdout  # the block holds
    assert "passed   mixed precision computes the gradients of float32: loss off by" in done.stdout


@pytest.mark.slow
def test_without_a_gpu_each_gpu_test_is_skipped_with_its_reason(tmp_path: Path) -> None:
    done = check(tmp_path, device="cuda")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch sees no GPU" in done.stdout
    assert " passed" not in done.stdout
