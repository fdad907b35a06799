"""The display of a running search: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.search.lease_source import LeaseSource
from contract.lease_errors import LeaseError
from contract.messages import Action, Decision, Lease, Outcome, Report, State

PLAIN_SECONDS = 30.0
"""Without a terminal: least seconds between two lines after an epoch."""

QUIET_SECONDS = 120.0
"""Without a terminal: most seconds without a line, also in the middle of a long epoch."""

SHOWN = 4
"""Most running trials that such a line names."""

NOT_COMPLETE = (State.PRUNED, State.FAILED, State.INFEASIBLE)


@dataclass(kw_only=True)
class _Row:
    """A running trial, with its last reported epoch and value."""

    config: dict[str, Any]
    epoch: int
    since: float
    value: float | None = None


class Progress:
    """A context manager around `run_search` that shows its trials."""

    def __init__(
        self,
        search: LeaseSource,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since any moment, `now` unix time."""
        self._search, self._noun = search, search.noun
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._clock, self._now = clock, now
        self._rows: dict[int, _Row] = {}
        self._began = self._spoke = clock()
        self._ended = 0
        self._epochs = 0
        self._has_told_probes = False
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.clear()
        if self._live is not None:
            self._live.stop()

    def note(self, line: str) -> None:
        """Print a line, in a terminal above the table."""
        self._console.print(line, markup=False)

    def tick(self) -> None:
        """Print what is running if nothing was printed for QUIET_SECONDS; to be called often."""
        if self._live is not None or self._clock() - self._spoke < QUIET_SECONDS:
            return
        self._spoke = self._clock()
        running = [
            f"{self._noun} {number}: epoch {row.epoch + 1} of {row.config.get('max_epochs', '?')}, "
            f"running for {_duration(self._clock() - row.since)}"
            for number, row in sorted(self._rows.items())[:SHOWN]
        ]
        more = [f"{len(self._rows) - SHOWN} more"] if len(self._rows) > SHOWN else []
        self.note("  ".join([self._headline(), "; ".join(running + more) or "waiting for a worker"]))

    def lease_started(self, lease: Lease) -> None:
        for leased in lease.trials:
            self._rows[leased.trial] = _Row(
                config=dict(leased.config), epoch=leased.done_epochs, since=self._clock()
            )

    def reported(self, report: Report, decision: Decision) -> None:
        if decision.action == Action.IGNORED:
            return
        self._epochs += 1
        row = self._rows.get(report.trial)
        if row is not None:
            row.epoch = report.epoch
            row.value = report.metrics.get(self._search.metric, row.value)
        if decision.outcome is not None:
            self._say_ended(decision)
        else:
            self._say_how_far()

    def probes_reported(self) -> None:
        if self._live is not None or self._search.is_probing:
            self._say_how_far()
        elif not self._has_told_probes:
            self._has_told_probes = True
            self.note(f"{self._probes_line()} judged on frozen features")

    def _say_how_far(self) -> None:
        if self._live is None and self._clock() - self._spoke > PLAIN_SECONDS:
            self._spoke = self._clock()
            self.note(self._headline())

    def lease_ended(self, lease: Lease, decisions: Sequence[Decision], error: LeaseError | None) -> None:
        for decision in decisions:
            self._say_ended(decision)
        if lease.probes:
            self.probes_reported()
        if error is not None and lease.probes:
            numbers = ", ".join(str(leased.probe) for leased in lease.probes)
            self.note(f"a worker died at one of the probes {numbers}; those without a result are tried again")
        for leased in lease.trials:
            gone = self._rows.pop(leased.trial, None)
            number = leased.trial
            if error is not None and not self._search.has_ended(number):
                # It may die before its lease begins.
                epoch = self._search.num_epochs(number) if gone is None else gone.epoch
                self.note(f"{self._noun} {number}: its worker died after epoch {epoch}; it is tried again")

    def _say_ended(self, decision: Decision) -> None:
        self._ended += 1
        row = self._rows.get(decision.trial)
        if self._live is None or decision.outcome == Outcome.FAILED:
            self.note(self._ended_line(decision, row))

    def _ended_line(self, decision: Decision, row: _Row | None) -> str:
        counts = self._search.counts()
        done = sum(counts.values()) - counts[State.RUNNING]
        value = self._search.kept_value(decision.trial)
        why = "".join(f": {text}" for text in (decision.reason, decision.detail) if text)
        parts = [f"{self._noun} {decision.trial} {decision.outcome}{why} ({done}/{self._search.num_trials})"]
        if value is not None and decision.outcome != Outcome.FAILED:
            parts.append(f"{self._search.metric} {value:.4f} after epoch {decision.epoch}")
        if row is not None:
            parts.append(_describe(row.config))
        self._spoke = self._clock()
        return "  ".join(parts)

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in (self._noun, "epoch", self._search.metric, "configuration", "time"):
            table.add_column(heading, justify="left" if heading == "configuration" else "right", no_wrap=True)
        # A copy: the table is drawn by Live's own thread.
        for number, row in sorted(self._rows.copy().items()):
            epoch = f"{row.epoch}/{row.config.get('max_epochs', '?')}"
            value = "" if row.value is None else f"{row.value:.4f}"
            spent = _duration(self._clock() - row.since)
            table.add_row(str(number), epoch, value, Text(_describe(row.config)), spent)
        return Group(Text(self._headline(), style="bold"), table)

    def _probes_line(self) -> str:
        done, total = self._search.num_probes
        return f"probes {done} of {total}"

    def _headline(self) -> str:
        counts = self._search.counts()
        done = sum(counts.values()) - counts[State.RUNNING]
        parts = [f"{done}/{self._search.num_trials} {self._noun}s"]
        parts += [f"{counts[state]} {state}" for state in NOT_COMPLETE if counts[state]]
        if self._search.is_probing:
            parts.append(self._probes_line())
        best = self._search.best()
        if best is not None:
            parts.append(f"best {best[1]:.4f} ({self._noun} {best[0]})")
        spent = self._clock() - self._began
        parts += [f"{self._epochs} epochs", _duration(spent)]
        if self._ended and done < self._search.num_trials:
            left = spent / self._ended * (self._search.num_trials - done)
            if left < self._search.ends_at - self._now():
                parts.append(f"about {_duration(left)} left")
        if math.isfinite(self._search.ends_at):
            left = max(0.0, self._search.ends_at - self._now())
            parts.append(f"{_duration(left)} left to search")
        return "  ".join(parts)


def _describe(config: dict[str, Any]) -> str:
    depth = config.get("unfreeze_depth")
    parts = [config.get("backbone"), config.get("regime"), None if depth is None else f"depth {depth}"]
    return " ".join(str(part) for part in parts if part is not None)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
