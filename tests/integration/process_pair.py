"""Two processes with torch's own process group that train trials together, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed, multiprocessing

from contract.messages import LeasedTrial, Report, StudySettings
from trainables.device.memory import FittingSize
from trainables.lease import LeasedRun
from trainables.training.process_group import join_process_group

NUM_WORKERS = 2
PATIENCE = timedelta(seconds=60)
"""Longest that a worker waits for another, instead of torch's half an hour."""

Results = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A trial that both workers train, and how their processes differ."""

    name: str
    leased: LeasedTrial
    settings: Sequence[Mapping[str, Any]]
    """Settings of each worker, by rank."""

    circumstances: Callable[[int], AbstractContextManager[Any]] = nullcontext
    """Takes the rank; its context is open for as long as the trial runs."""


def latency_by_rank(rank: int) -> AbstractContextManager[Any]:
    """Make the first worker's device the slow one."""
    return patch("trainables.limits.measure_latency_ms", lambda *_, **__: (100.0, 1.0)[rank])


def no_room(_: int) -> AbstractContextManager[Any]:
    """Make saving a result fail."""
    return patch("trainables.lease.save_result", side_effect=PermissionError("not yours"))


@contextmanager
def second_runs_out_of_memory(rank: int) -> Iterator[None]:
    """Let the second worker run out of memory at its first batch outside an update."""
    whole, failed = FittingSize.compute, [rank == 0]

    def compute(self: FittingSize, function: Any, rows: Any) -> Any:
        def starved(part: Any) -> Any:
            if len(part) > 1 and not failed[0]:
                failed[0] = True
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(part)

        return whole(self, starved, rows)

    with patch.object(FittingSize, "compute", compute):
        yield
    assert failed[0], "nothing was computed"


def run_scenarios(scenarios: Sequence[Scenario], folder: Path) -> dict[str, Results]:
    """What each worker reported or raised, by the scenario's name."""
    arguments = (list(scenarios), str(folder))
    multiprocessing.start_processes(_work, args=arguments, nprocs=NUM_WORKERS, start_method="spawn")
    by_rank = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NUM_WORKERS)]
    return {scenario.name: [results[scenario.name] for results in by_rank] for scenario in scenarios}


def _work(rank: int, scenarios: Sequence[Scenario], folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=NUM_WORKERS, timeout=PATIENCE
    )
    results = {}
    for scenario in scenarios:
        with scenario.circumstances(rank):
            results[scenario.name] = _run(scenario, rank)
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


def _run(scenario: Scenario, rank: int) -> dict[str, Any]:
    run = LeasedRun(
        scenario.leased,
        StudySettings.from_values(scenario.settings[rank]),
        process_group=join_process_group(),
    )
    reports: list[Report] = []
    error = None
    try:
        while not run.finished:
            reports += run.advance()
    except Exception as raised:  # it is what the test looks at
        error = f"{type(raised).__name__}: {raised}"
    kept = None if run.run is None else run.run.kept.log_probabilities
    predicted = None if kept is None else kept.argmax(dim=1).tolist()
    return {"reports": [report.as_values() for report in reports], "error": error, "predicted": predicted}
