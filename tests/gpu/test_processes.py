"""Trials in processes of their own: a fault of the device, shares of a GPU, two GPUs for one trial."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.messages import LeasedTrial, StudySettings
from tests.gpu.conftest import Measure
from tests.gpu.trial_process import FAULT_EXIT

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {"backbone": "lite0", "max_epochs": 2, "batch_size": 8, "optimizer": "sgd"}
CONFIG |= {"learning_rate": 1e-3, "frozen_batch_norm": True, "dropout": 0.0}


def make_lease(number: int) -> LeasedTrial:
    return LeasedTrial(trial=number, attempt=1, config=CONFIG, done_epochs=0)


def start(
    work: str, settings: StudySettings, leased: LeasedTrial, *arguments: Any
) -> tuple[subprocess.Popen[str], Path]:
    """A process of `trial_process.py`, and the file that it will answer in."""
    name = "-".join(map(str, (work, *arguments, leased.trial)))
    request = Path(settings.study_directory) / f"{name}.request"
    answer = request.with_suffix(".answer")
    asked = {
        "work": work,
        "settings": settings.as_values(),
        "trial": leased.as_values(),
        "arguments": arguments,
    }
    request.write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, "-m", "tests.gpu.trial_process", str(request), str(answer)]
    output = subprocess.PIPE
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])),
    }
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
    )
    return process, answer


def finish(process: subprocess.Popen[str], answer: Path) -> Any:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return json.loads(answer.read_text(encoding="utf-8"))


def test_a_device_side_assert_ends_its_process_and_the_next_one_trains(
    settings: StudySettings, measure: Measure
) -> None:
    process, answer = start("poisoned", settings, make_lease(0))
    output, _ = process.communicate(timeout=120)

    assert process.returncode == FAULT_EXIT, output
    assert not answer.exists()
    if settings.use_gpu:
        assert "the device works: False" in output
    reports = finish(*start("trials", settings, make_lease(1)))
    assert reports[-1]["outcome"] == "complete"
    measure(f"exit status {process.returncode}, then {len(reports)} epochs in a fresh process")


def test_two_trials_on_one_gpu_stay_within_their_shares(settings: StudySettings, measure: Measure) -> None:
    if not settings.use_gpu:
        pytest.skip("a CPU's memory has no shares")
    halved = replace(settings, gpus_per_worker=0.5)

    both = [start("share", halved, make_lease(number)) for number in (2, 3)]
    answers = [finish(*one) for one in both]

    for found in answers:
        assert found["refused"], "more than the share was given"
        assert found["peak"] <= 0.5 * found["total"]
    measure("most GiB taken " + " and ".join(f"{found['peak'] / 2**30:.2f}" for found in answers))


def test_two_workers_compute_what_one_does(settings: StudySettings, measure: Measure) -> None:
    """Differences are those of another order of summation, and in bfloat16 of 8 bits a number."""
    if settings.use_gpu and torch.cuda.device_count() < 2:
        pytest.skip("one GPU only: two workers need two")
    alone = finish(*start("trials", settings, make_lease(4)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    pair = replace(settings, workers=2)
    again = replace(make_lease(4), attempt=2)  # another number would draw another head
    workers = [start("worker", pair, again, rank, port) for rank in (0, 1)]
    together, _ = [finish(*worker) for worker in workers]

    differences = [
        abs(first["metrics"][name] - second["metrics"][name])
        for first, second in zip(alone, together, strict=True)
        for name in ("train_loss", "val_loss")
    ]
    assert max(differences) < (0.02 if settings.use_gpu else 1e-4)
    measure(f"largest difference of a loss {max(differences):.1e}")


def test_gpus_per_trial_2_searches_with_ray(
    settings: StudySettings, measure: Measure, tmp_path: Path
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    if not settings.use_gpu or torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    flags = [
        "--space",
        "demo",
        "--trials",
        "1",
        "--max-epochs",
        "1",
        "--weights",
        "random",
        "--gpus-per-trial",
        "2",
    ]
    command = [sys.executable, "tune.py", *flags, "--runs-dir", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    measure("a search of one trial on two GPUs ended with exit status 0")
