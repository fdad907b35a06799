"""Lets a request to end stop a command as Ctrl-C does, which cleans up, so that it can go on later."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what kill, Slurm, Kubernetes and a shutdown send; what a closed terminal sends."""

AGAIN_SECONDS = 0.05
"""Time after which an interrupt that was lost in a callback is sent again, as often as it is lost."""


@contextmanager
def stopping_like_ctrl_c(on_signal: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `on_signal` for each of SIGNALS; without it, raise KeyboardInterrupt.

    An interrupt that is raised where Python ignores errors, in the callback of a weak reference or in
    `__del__`, is raised again outside of it. A closed terminal stays ignored where it was, as under nohup.
    Outside the main thread, where signals cannot be caught, nothing changes.
    """

    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if on_signal is None:
            raise KeyboardInterrupt
        on_signal()

    before: dict[signal.Signals, Any] = {}
    ended = threading.Event()
    unraisable = sys.unraisablehook
    if threading.current_thread() is threading.main_thread():
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        before = {number: signal.signal(number, handle) for number in SIGNALS if number not in ignored}
        sys.unraisablehook = partial(_interrupt_again, unraisable, ended)
    try:
        yield
    finally:
        ended.set()
        if before:
            sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_again(hook: Callable[[Any], Any], ended: threading.Event, error: Any) -> None:
    """Send the interrupt anew that Python is ignoring, from another thread, when its callback has ended."""
    if not isinstance(error.exc_value, KeyboardInterrupt):
        hook(error)
        return

    def send() -> None:
        if not ended.wait(AGAIN_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put handlers of Python back that a library replaces by its own, as Ray does for SIGTERM.

    Where there was none, the library's stays.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)


def _leave_terminal() -> None:
    """Write to nowhere from now on, if it was a terminal: it is gone, and each further line would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if os.isatty(stream.fileno()):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
        except (OSError, ValueError, AttributeError):  # a stream without a file
            continue
