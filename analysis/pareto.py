"""The Pareto front of a study with several metrics: the trials that no other trial beats in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.reading import StudyInfo


def objectives_of(study: StudyInfo) -> dict[str, bool]:
    """Metric -> whether more is better."""
    names = study.facts.get("metrics") or [study.metric]
    directions = study.facts.get("directions") or ["maximize" if study.maximize else "minimize"]
    return {name: direction == "maximize" for name, direction in zip(names, directions, strict=True)}


def find_front(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, bool]) -> list[int]:
    """Positions of the complete rows that are on the front, best in the first metric first.

    Values are those of each trial's best epoch by the first metric, as everywhere on the leaderboard. Of rows
    that are equal in all metrics every one counts.
    """
    points = {
        number: [row[name] if more else -row[name] for name, more in objectives.items()]
        for number, row in enumerate(rows)
        if row["state"] == "complete" and all(row.get(name) is not None for name in objectives)
    }
    front: list[int] = []
    # Sorted, a row can only be beaten by one before it, and then by one of the front.
    for number in sorted(points, key=lambda number: points[number], reverse=True):
        point = points[number]
        beaten = any(
            points[other] != point and all(a >= b for a, b in zip(points[other], point, strict=True))
            for other in front
        )
        if not beaten:
            front.append(number)
    return front
