"""What the tests of this folder run in processes of their own: one trial, one of two workers, a fault."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from contract.messages import Lease, LeasedTrial, Report, StudySettings
from tests.lone_trial import start_trials
from trainables.device.accelerator import DeviceFault, device_works
from trainables.lease import start_lease, take_turns
from trainables.run import TrialRun
from trainables.training.process_group import join_process_group

FAULT_EXIT = 3
"""Exit status of a process that ended because its accelerator failed."""


def run_trials(settings: StudySettings, *trials: LeasedTrial) -> list[Report]:
    """All reports of the trials of one lease; none of them may have failed."""
    runs = start_trials(settings, *trials)
    reports: list[Report] = []
    while any(not run.finished for run in runs):
        reports += take_turns(runs)
    for report in reports:
        assert report.reason is None, report.traceback
    return reports


def run_poisoned(settings: StudySettings, leased: LeasedTrial) -> list[Report]:
    """Run a trial whose first epoch reads beyond the end of a table on the device."""

    def read_beyond_the_end(*_: Any) -> None:
        if not settings.use_gpu:  # a CPU checks the index at once; these are the words of a GPU
            raise RuntimeError("CUDA error: device-side assert triggered")
        table = torch.zeros(4, device="cuda")
        table.gather(0, torch.tensor([9], device="cuda")).sum().item()

    TrialRun.run_epoch = read_beyond_the_end  # type: ignore[assignment, method-assign]
    try:
        return run_trials(settings, leased)
    except DeviceFault as fault:
        print(f"{fault}; the device works: {device_works()}")
        sys.exit(FAULT_EXIT)


def run_as_worker(settings: StudySettings, leased: LeasedTrial, rank: int, port: str) -> list[Report]:
    """Run a trial as one of two workers of a process group."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
    if settings.use_gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if settings.use_gpu else "gloo")
    config = Lease(trials=(leased,)).as_config(settings.as_values())
    [run] = start_lease(config, process_group=join_process_group())
    reports = []
    while not run.finished:
        reports += run.advance()
    distributed.barrier()  # the first worker keeps the store: it must not leave before the other has read
    distributed.destroy_process_group()
    return reports


def run_in_share(settings: StudySettings, leased: LeasedTrial) -> dict[str, Any]:
    """Run a trial within its share of the GPU; the most it may take, and whether more was refused."""
    reports = run_trials(settings, leased)
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.empty(int(settings.gpus_per_worker * total), dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return {"peak": reports[-1].metrics["peak_memory_gb"] * 1e9, "total": total, "refused": True}
    return {"peak": 0.0, "total": total, "refused": False}


def main(request: Path, answer: Path) -> None:
    """Do what the file asks for, and write what came of it."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    settings = StudySettings.from_values(asked["settings"])
    works: dict[str, Callable[..., Any]] = {
        "trials": run_trials,
        "poisoned": run_poisoned,
        "worker": run_as_worker,
        "share": run_in_share,
    }
    leased = LeasedTrial.from_values(asked["trial"])
    result: Any = works[asked["work"]](settings, leased, *asked["arguments"])
    if isinstance(result, list):
        result = [report.as_values() for report in result]
    answer.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
