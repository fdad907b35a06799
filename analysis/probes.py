"""Probes of a study: how many frozen heads were judged, how long it took, and which was best."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect, text

from analysis.reading import StudyInfo, connect

LOSS = "val_loss"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A row of the table `probes`."""

    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    """Values of its last epoch; empty if it failed."""

    seconds: float


def read_probes(connection: Connection, study_id: int) -> list[Probe]:
    """Load all probes that ended, by number; a database of an earlier version has none."""
    if not inspect(connection).has_table("probes"):
        return []
    query = text("SELECT config, metrics, seconds FROM probes WHERE study_id = :id ORDER BY probe")
    return [
        Probe(
            config=json.loads(config),
            metrics=json.loads(metrics or "{}"),
            seconds=seconds,
        )
        for config, metrics, seconds in connection.execute(query, {"id": study_id})
    ]


def load_probes(study: StudyInfo) -> list[Probe]:
    """Load all probes of a study that ended."""
    with connect(study) as (connection, study_id):
        return read_probes(connection, study_id)


def describe_probes(study: StudyInfo) -> str:
    """Say in one line how many heads were judged, in what time, and which was best; empty without any."""
    probes = load_probes(study)
    return f"probes: {tell_probes(study, probes)}" if probes else ""


def tell_probes(study: StudyInfo, probes: Sequence[Probe]) -> str:
    """Tell of a study's probes, of which there are some, how many they are, what they took, and the best."""
    number, seconds = len(probes), sum(probe.seconds for probe in probes)
    line = f"{number} head{'' if number == 1 else 's'} on frozen features in {seconds:.1f} s"
    num_failed = sum(not probe.metrics for probe in probes)
    failed = f", {num_failed} of them failed" if num_failed else ""
    return f"{line}{failed}{_describe_best(probes, metric=study.metric, maximize=study.maximize)}"


def _describe_best(probes: Sequence[Probe], *, metric: str, maximize: bool) -> str:
    best = find_best(probes, metric, maximize=maximize)
    if best is None:
        return ""
    line = f"; best {_describe_head(best.config)}: {best.metrics[metric]:.4f}"
    surest = find_best(probes, LOSS, maximize=False)
    if surest is None or surest is best:
        return line
    return f"{line}; lowest {LOSS} {_describe_head(surest.config)}: {surest.metrics[LOSS]:.4f}"


def find_best(probes: Sequence[Probe], metric: str, *, maximize: bool) -> Probe | None:
    """The first of the best by a metric; None where none has a finite value."""
    known = [probe for probe in probes if math.isfinite(probe.metrics.get(metric, math.nan))]
    choose: Callable[..., Probe] = max if maximize else min
    return choose(known, key=lambda probe: probe.metrics[metric]) if known else None


def _describe_head(config: Mapping[str, Any]) -> str:
    policy = config.get("policy", "none")
    parts = [str(config.get("backbone", "?"))]
    parts += [f"head width {config['head_width']}"] if "head_width" in config else []
    parts += [f"dropout {config['dropout']:.2g}"] if "dropout" in config else []
    parts += [f"policy {policy}"] if policy != "none" else []
    return ", ".join(parts)
