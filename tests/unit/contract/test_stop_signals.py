"""A request to end stops a command as Ctrl-C does, and a closed terminal does, too."""

from __future__ import annotations

import os
import signal
import threading

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
