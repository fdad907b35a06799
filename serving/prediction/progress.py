"""Shows how far a run is, on standard error: a line that changes on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from contract.files import plural, printable

LINE_SECONDS = 60.0
"""Time between two lines where standard error is no terminal."""


class Progress:
    """Counts photos; how many there will be is not known, since they are listed on the way."""

    def __init__(self, *, is_shown: bool) -> None:
        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        shows_line = is_shown and console.is_terminal
        self._status = Status("loading the model", console=console) if shows_line else None
        self._is_shown = is_shown
        self._done = 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def advance(self, num_photos: int) -> None:
        """Count photos whose rows are written."""
        self._done += num_photos
        now = time.monotonic()
        line = f"{plural(self._done, 'photo')}, {self._done / max(now - self._began, 1e-9):,.1f} a second"
        if self._status is not None:
            self._status.update(line)
        elif self._is_shown and now > self._told + LINE_SECONDS:
            self._told = now
            print(line, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line between the others."""
        if self._status is not None:
            self._status.console.print(printable(line))
        else:
            print(printable(line), file=sys.stderr, flush=True)
