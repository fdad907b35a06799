"""What the card can do at most, as measured here: products of matrices, and copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks.accelerator.arithmetic import PRECISIONS, Precision, of_trials, precision_of
from benchmarks.accelerator.timing import Clock

PART = "limits"
PINNED = "host to device, pinned"


@dataclass(kw_only=True)
class Limits:
    """Rates of the card; a row's share is of one of them."""

    products: dict[Precision, float] = field(default_factory=dict)
    """Floating-point operations a second of a product of square matrices, by precision."""

    pinned: float | None = None
    """Bytes a second from pinned memory of the host to the device; None on a CPU."""

    def of_products(self, precision: Precision) -> tuple[str, float] | None:
        """Name and rate; None where it could not be measured."""
        rate = self.products.get(precision)
        return None if rate is None else (f"products in {precision}", rate)

    def of_copies(self) -> tuple[str, float] | None:
        """Name and rate of copies from pinned memory; None on a CPU."""
        return None if self.pinned is None else (PINNED, self.pinned)


def measure_limits(clock: Clock, *, sizes: tuple[int, ...], copied_bytes: int) -> Limits:
    """Measure the products, the largest rate of a few sizes in each precision, and the copies."""
    limits = Limits()
    own = of_trials(clock.device).precision
    for precision in PRECISIONS if own == "bfloat16" else (own,):
        for size in sizes:
            work = partial(_measure_product, clock, limits, precision, size)
            clock.attempt(PART, f"products in {precision}, {size} x {size}", work)
    if clock.device.type == "cuda":
        clock.attempt(PART, PINNED, lambda: _measure_host_copies(clock, limits, copied_bytes))
    else:
        clock.skip(PART, "host to device", "a CPU has no memory of its own")
    clock.attempt(PART, "within the device's memory", lambda: _measure_memory(clock, copied_bytes))
    return limits


def _measure_product(clock: Clock, limits: Limits, precision: Precision, size: int) -> None:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right, out = (torch.randn(size, size, device=clock.device).to(dtype) for _ in range(3))
    with precision_of(precision):
        row = clock.rate(
            PART,
            f"products in {precision}, {size} x {size}",
            lambda: torch.mm(left, right, out=out),
            amount=2 * size**3 / 1e12,
            unit="TFLOP/s",
        )
    limits.products[precision] = max(limits.products.get(precision, 0.0), row.median * 1e12)


def _measure_host_copies(clock: Clock, limits: Limits, copied_bytes: int) -> None:
    there = torch.empty(copied_bytes, dtype=torch.uint8, device=clock.device)
    pinned, plain = (torch.zeros(copied_bytes, dtype=torch.uint8, pin_memory=own) for own in (True, False))
    ways = {
        PINNED: lambda: there.copy_(pinned, non_blocking=True),
        "host to device, not pinned": lambda: there.copy_(plain),
        "device to host, pinned": lambda: pinned.copy_(there, non_blocking=True),
    }
    rows = [
        clock.rate(PART, name, work, amount=copied_bytes / 1e9, unit="GB/s") for name, work in ways.items()
    ]
    limits.pinned = rows[0].median * 1e9


def _measure_memory(clock: Clock, copied_bytes: int) -> None:
    source, target = (torch.zeros(copied_bytes, dtype=torch.uint8, device=clock.device) for _ in range(2))
    clock.rate(
        PART,
        "within the device's memory",
        lambda: target.copy_(source),
        amount=2 * copied_bytes / 1e9,
        unit="GB/s",
        note="bytes read and written",
    )
