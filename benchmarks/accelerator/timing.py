"""Times calls on a device, counts their floating-point operations, and makes the rows of the table."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from contract.files import first_line
from trainables.device.memory import is_out_of_memory, release_memory

WARM_UP = 3
"""Calls before the clock: they load kernels, choose algorithms and fill PyTorch's cache of memory."""

LEAST_SAMPLES = 3
SAMPLE_SECONDS = 0.02
"""A sample is as many calls as take this long, so that starting and stopping the clock does not matter."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a rate with its least and most, and its share of a limit of the card."""

    part: str
    what: str
    unit: str = ""
    median: float = math.nan
    least: float = math.nan
    most: float = math.nan
    samples: int = 0
    share: float | None = None
    """The rate's share of the limit."""

    limit: str = ""
    """What the share is of."""

    note: str = ""
    """Why there is no rate, or what has to be known of it."""

    failed: bool = False

    def as_values(self) -> dict[str, Any]:
        values = asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


@dataclass(kw_only=True)
class Clock:
    """Times calls on a device, and keeps the rows of what it timed."""

    device: torch.device
    seconds: float
    """Time of a cell after its warm-up; a cell has at least LEAST_SAMPLES samples, however long they take."""

    rows: list[Row] = field(default_factory=list)

    def rate(
        self,
        part: str,
        what: str,
        work: Callable[[], object],
        *,
        amount: float,
        unit: str,
        cost: float = 0.0,
        limit: tuple[str, float] | None = None,
        note: str = "",
    ) -> Row:
        """Time a cell, and keep its row.

        Args:
            amount: what one call does, in `unit` x seconds.
            cost: what one unit costs of the limit, such as floating-point operations an image.
            limit: its name, and how much of the cost the card can do in a second.
        """
        samples = [amount / seconds for seconds in time_calls(work, device=self.device, seconds=self.seconds)]
        return self.keep(part, what, samples, unit=unit, cost=cost, limit=limit, note=note)

    def keep(
        self,
        part: str,
        what: str,
        rates: Sequence[float],
        *,
        unit: str,
        cost: float = 0.0,
        limit: tuple[str, float] | None = None,
        note: str = "",
    ) -> Row:
        """Keep the row of rates that were measured elsewhere."""
        median = statistics.median(rates)
        share = median * cost / limit[1] if limit and cost else None
        row = Row(
            part=part,
            what=what,
            unit=unit,
            median=median,
            least=min(rates),
            most=max(rates),
            samples=len(rates),
            share=share,
            limit=limit[0] if limit and share is not None else "",
            note=note,
        )
        return self._add(row)

    def skip(self, part: str, what: str, why: str) -> Row:
        """Keep a row that says why there is no figure."""
        return self._add(Row(part=part, what=what, note=why))

    def attempt(self, part: str, what: str, cell: Callable[[], object]) -> None:
        """Measure a cell; an error becomes its row, since the other cells are still worth measuring."""
        try:
            cell()
        except Exception as error:  # the row holds it, and the command ends with exit code 1
            logger.debug("%s, %s", part, what, exc_info=error)
            memory = is_out_of_memory(error)
            why = "does not fit into the memory" if memory else f"{type(error).__name__}: {first_line(error)}"
            self._add(Row(part=part, what=what, note=why, failed=not memory))
        release_memory()

    def _add(self, row: Row) -> Row:
        self.rows.append(row)
        print(as_line(row), file=sys.stderr, flush=True)
        return row


def time_calls(work: Callable[[], object], *, device: torch.device, seconds: float) -> list[float]:
    """Seconds of a call, once for each sample; on a GPU between two events on the stream that it uses."""
    for _ in range(WARM_UP):
        work()
    calls = max(1, math.ceil(SAMPLE_SECONDS / max(_sample(work, 1, device), 1e-9)))
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < LEAST_SAMPLES or time.perf_counter() - began < seconds:
        samples.append(_sample(work, calls, device) / calls)
    return samples


def _sample(work: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            work()
        return time.perf_counter() - began
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def count_flops(work: Callable[[], object]) -> float:
    """Floating-point operations of a call, forward and backward: two for a multiplication with its addition.

    Products of matrices and convolutions are counted (torch.utils.flop_counter), not norms and activations.
    """
    gradients: Any = {torch.ops.aten.convolution_backward: _gradient_flops}
    with FlopCounterMode(display=False, custom_mapping=gradients) as counter:
        work()
    return float(counter.get_total_flops())


def _gradient_flops(
    gradient: Sequence[int], _images: Sequence[int], weight: Sequence[int], *others: Any, **_: Any
) -> int:
    """Operations of a convolution's gradients by their shapes: each that is wanted takes those of the pass.

    PyTorch 2.15's own formula takes a depthwise convolution of C channels for C times as much.
    """
    wanted = others[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * (bool(wanted[0]) + bool(wanted[1]))


def as_line(row: Row) -> str:
    """`frozen passes: bfloat16: 8,120 (8,050 to 8,170) images/s, 12.3 % of products in bfloat16`."""
    if not row.samples:
        return f"{row.part}: {row.what}: {row.note}"
    share = "" if row.share is None else f", {row.share:.1%} of {row.limit}"
    note = f" ({row.note})" if row.note else ""
    return f"{row.part}: {row.what}: {rate_of(row)} {row.unit}{share}{note}"


def rate_of(row: Row) -> str:
    """`8,120 (8,050 to 8,170)`, with three digits or more."""
    digits = max(0, 2 - math.floor(math.log10(row.median))) if row.median > 0 else 0
    middle, least, most = (f"{value:,.{digits}f}" for value in (row.median, row.least, row.most))
    return f"{middle} ({least} to {most})"


def as_table(rows: Sequence[Row]) -> str:
    """The rows below each other; rich, which prints the other tables, may be lacking on a GPU machine."""
    heads = ("part", "what", "median (least to most)", "unit", "share", "of", "note")
    cells = [
        (
            row.part,
            row.what,
            rate_of(row) if row.samples else "-",
            row.unit,
            "" if row.share is None else f"{row.share:.1%}",
            row.limit,
            row.note,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (heads, *cells)
    )
    return "\n".join(line.rstrip() for line in lines)
