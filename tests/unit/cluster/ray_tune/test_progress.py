"""The progress display (plain lines, a live table), and what Ctrl-C does."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from cluster.ray_tune.progress import Progress
from cluster.ray_tune.run import Interrupts
from cluster.schedulers import load_scheduler
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.records import Records
from contract.messages import Lease, Outcome, Report
from contract.probes import ProbeReport


def make_search(tmp_path: Path, **changes: Any) -> Search:
    def space(trial: optuna.Trial) -> dict[str, object]:
        trial.suggest_float("learning_rate", 0.1, 1)
        return {"backbone": "lite0", "regime": "finetune", "unfreeze_depth": 2}

    records = Records(
        f"sqlite:///{tmp_path}/study.db", study="s", directions=["maximize"], metric="val_accuracy", new=True
    )
    setup = SearchSetup(
        space=space,
        make_sampler=load_searcher("random"),
        scheduler=load_scheduler("none"),
        num_trials=2,
        seed=0,
        metrics=["val_accuracy"],
        max_epochs=2,
    )
    return Search(records, replace(setup, **changes))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return make_search(tmp_path)


def run_one_trial(search: Search, progress: Progress, *, outcome: Outcome) -> None:
    lease = search.next_lease()
    assert isinstance(lease, Lease)
    number = lease.trials[0].trial
    progress.lease_started(lease)
    for epoch, told in ((1, None), (2, outcome)):
        report = Report(
            trial=number,
            attempt=1,
            epoch=epoch,
            metrics={"val_accuracy": 0.4 * epoch},
            outcome=told,
            traceback="Traceback\nKeyError: 1" if told is Outcome.FAILED else None,
        )
        progress.reported(report, search.receive([report])[0])
    progress.lease_ended(lease, search.lease_ended(lease), None)


def test_without_a_terminal_each_ended_trial_is_one_line(search: Search) -> None:
    output = io.StringIO()

    with Progress(search, console=Console(file=output, width=120)) as progress:
        run_one_trial(search, progress, outcome=Outcome.COMPLETE)
        run_one_trial(search, progress, outcome=Outcome.FAILED)

    assert output.getvalue().splitlines() == [
        "trial 0 complete (1/2)  val_accuracy 0.8000 after epoch 2  lite0 finetune depth 2",
        "trial 1 failed: bug: KeyError: 1 (2/2)  lite0 finetune depth 2",
    ]


def test_without_a_terminal_a_line_is_said_regularly_in_the_middle_of_a_long_epoch(search: Search) -> None:
    output, seconds = io.StringIO(), [0.0]

    with Progress(search, console=Console(file=output, width=120), clock=lambda: seconds[0]) as progress:
        lease = search.next_lease()
        assert isinstance(lease, Lease)
        progress.lease_started(lease)
        for now in range(0, 1201, 5):  # an epoch of 20 minutes, looked at every 5 seconds
            seconds[0] = now
            progress.tick()

    lines = output.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "0/2 trials  0 epochs  2:00  trial 0: epoch 1 of 2, running for 2:00"
    assert lines[-1].endswith("running for 20:00")


def test_probes_are_counted_in_the_headline_and_said_once_when_they_are_over(tmp_path: Path) -> None:
    output, seconds = io.StringIO(), [0.0]
    search = make_search(tmp_path, num_probes=4, group_of=lambda _: "heads")
    lease = search.next_lease()
    assert isinstance(lease, Lease)
    reports = [ProbeReport(probe=one.probe, metrics={"val_accuracy": 0.5}) for one in lease.probes]

    with Progress(search, console=Console(file=output, width=120), clock=lambda: seconds[0]) as progress:
        progress.lease_started(lease)
        search.receive_probes(reports[:1])
        seconds[0] = 31.0
        progress.probes_reported()
        search.receive_probes(reports[1:])
        progress.probes_reported()
        progress.lease_ended(lease, search.lease_ended(lease), None)

    assert output.getvalue().splitlines() == [
        "0/2 trials  probes 1 of 4  0 epochs  0:31",
        "probes 4 of 4 judged on frozen features",
    ]


def test_in_a_terminal_running_trials_stand_in_a_table_under_the_best_so_far(search: Search) -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True, color_system=None)

    with Progress(search, console=console) as progress:
        run_one_trial(search, progress, outcome=Outcome.COMPLETE)
        lease = search.next_lease()
        assert isinstance(lease, Lease)
        progress.lease_started(lease)
        console.print(progress._render())

    assert "1/2 trials" in output.getvalue()
    assert "best 0.8000 (trial 0)" in output.getvalue()
    assert "lite0 finetune depth 2" in output.getvalue()


def test_the_first_interrupt_asks_and_the_second_stops() -> None:
    asked = []
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), Interrupts(lambda: asked.append(1)) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received
        os.kill(os.getpid(), signal.SIGTERM)

    assert asked == [1]
    assert signal.getsignal(signal.SIGINT) is before
