"""A process beside the command runs its calls, tells what they raise, and ends with the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wiring.side_process import Calls, SideProcess, close_all, start_side_processes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def process() -> Iterator[SideProcess]:
    started = start_side_processes(1, ["decimal"])
    yield started[0]
    close_all(started)


def loaded(name: str) -> bool:
    return name in sys.modules


def hand_on(calls: Calls, number: float) -> float:
    calls.begin(abs, number)
    found: float = calls.result()
    return found + 1


def raise_what_cannot_be_pickled() -> None:
    error = OSError("full")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def test_its_modules_are_imported_before_the_first_call(process: SideProcess) -> None:
    process.calls.begin(loaded, "decimal")

    assert process.calls.result() is True


def test_what_a_call_raises_is_raised_where_its_result_is_waited_for(process: SideProcess) -> None:
    process.calls.begin(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        process.calls.result()

    process.calls.begin(raise_what_cannot_be_pickled)
    with pytest.raises(RuntimeError, match="full"):
        process.calls.result()

    process.calls.begin(abs, -3)
    assert process.calls.result() == 3, "it goes on after errors"


def test_a_process_that_is_ended_from_outside_is_an_error_with_a_reason(process: SideProcess) -> None:
    process.calls.begin(os.getpid)
    os.kill(process.calls.result(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="ended from outside"):
        process.calls.result()


def test_the_calls_of_one_process_can_be_handed_to_another() -> None:
    one, other = started = start_side_processes(2)
    try:
        other.calls.begin(hand_on, one.calls, -2)

        assert other.calls.result() == 3
    finally:
        close_all(started)


def test_the_command_does_not_run_again_in_them(tmp_path: Path) -> None:
    command = tmp_path / "command.py"
    command.write_text(
        "print('runs')\n"
        "from wiring.side_process import close_all, start_side_processes\n"
        "close_all(start_side_processes(2))\n"
    )

    said = subprocess.run(
        [sys.executable, str(command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout

    assert said.split() == ["runs"]


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, time\n"
        "from wiring.side_process import start_side_processes\n"
        "one, = start_side_processes(1); one.calls.begin(os.getpid); print(one.calls.result(), flush=True)\n"
        "one.calls.begin(time.sleep, 60); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number = int(parent.stdout.readline())
    assert psutil.pid_exists(number)

    parent.kill()
    parent.wait()

    deadline = time.monotonic() + 30
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process outlives the one that started it"
        time.sleep(0.1)
