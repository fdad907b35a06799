"""A request to end stops a command as Ctrl-C does, and a closed terminal does, too."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from contract.stop_signals import SIGNALS, stopping_like_ctrl_c


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_that_asks_a_process_to_end_raises_keyboard_interrupt(number: signal.Signals) -> None:
    found = signal.signal(number, signal.SIG_DFL)  # under nohup the tests ignore SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), stopping_like_ctrl_c():
            os.kill(os.getpid(), number)

        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


def test_interrupt_where_python_ignores_errors_is_not_lost() -> None:
    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    hook = sys.unraisablehook
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stopping_like_ctrl_c():
        value = Interrupted()
        del value
        time.sleep(30)

    assert time.monotonic() - began < 20
    assert sys.unraisablehook is hook


def test_other_errors_that_python_ignores_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(error.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise OSError

    with stopping_like_ctrl_c():
        value = Broken()
        del value

    assert told == [OSError]


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_like_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def look() -> None:
        with stopping_like_ctrl_c():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert seen == [before]
