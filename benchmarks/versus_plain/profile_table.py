"""Where the time of our side goes: a table of the spans that its processes recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.measured_trial import PREFIX

LOOP = "Ray Tune's loop, waiting included"


def profile_rows(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where, what, seconds and CPU seconds (None = not known); a worker's add up to slots x wall time."""
    driver = {name: (span["seconds"], span["cpu_seconds"]) for name, span in run["driver"].items()}
    rows = [_row("driver", name, *driver.pop(name)) for name in ("decoding images", "opening the study")]
    rows.append(_row("driver", "Ray's own start (not in the clock)", run["ray_start_seconds"]))
    rows += [_row("driver", name, *both) for name, both in driver.items()]
    rows.append(_row("driver", "after the last result", run["closing_seconds"]))
    workers = {name: (span["seconds"], span["cpu_seconds"]) for name, span in run["workers"].items()}
    prefixes = {name: workers.pop(name) for name in list(workers) if name.startswith(PREFIX)}
    if prefixes:
        seconds, cpu = (sum(values) for values in zip(*prefixes.values(), strict=True))
        workers["frozen prefixes"] = (seconds, cpu)
    known = run["worker_start_seconds"] + sum(seconds for seconds, _ in workers.values())
    rows.append(_row("workers", "start of the processes", run["worker_start_seconds"]))
    rows += [_row("workers", *named) for named in _by_seconds(workers)]
    rows.append(_row("workers", "idle: between leases and at the end", run["window_seconds"] - known))
    rows.append(_row("workers", "all slots until the last result", run["window_seconds"]))
    return rows


def _by_seconds(spans: Mapping[str, tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [(name, *both) for name, both in sorted(spans.items(), key=lambda item: -item[1][0])]


def _row(where: str, what: str, seconds: float, cpu_seconds: float | None = None) -> dict[str, Any]:
    rounded = None if cpu_seconds is None else round(cpu_seconds, 3)
    return {"where": where, "what": what, "seconds": round(seconds, 3), "cpu_seconds": rounded}


def make_profile_table(case: str, run: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"time of {case}")
    table.add_column("what")
    for head in ("seconds", "CPU seconds", "share of all slots"):
        table.add_column(head, justify="right")
    for row in profile_rows(run):
        share = f"{row['seconds'] / run['window_seconds']:.1%}" if row["where"] == "workers" else ""
        cpu = "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.2f}"
        table.add_row(row["where"], row["what"], f"{row['seconds']:.2f}", cpu, share)
    return table
