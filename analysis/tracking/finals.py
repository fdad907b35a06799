"""Writes the final trainings of a study to MLflow, as runs beside those of its trials."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from analysis.finals import Final, load_finals
from analysis.reading import HYPERPARAMETERS, StudyInfo
from analysis.tracking import runs
from contract.files import printable
from contract.metrics import METRICS

FINAL_TAG = "unfreeze.final"
"""Tag with the number of a final training, by which its run is found again."""


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """What MLflow is told of a final training that has ended."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[runs.Point]
    status: str
    started: int
    """Unix time [ms]."""

    ended: int


def find_lacking(study: StudyInfo, *, written: Collection[int]) -> list[Final]:
    """List the final trainings that have ended and are not in MLflow."""
    return [one for one in load_finals(study) if one.state.has_ended and one.final not in written]


def describe_final(study: StudyInfo, final: Final) -> FinalRun:
    """Make a final training's run: named by its kind, and tagged with kind and source trial."""
    training = final.training
    row = {**final.config, "trial": training.source}
    tags = {
        runs.STUDY_TAG: study.key,
        FINAL_TAG: final.final,
        "kind": training.kind,
        "source_trial": training.source,
        "space": study.space,
        "data": study.data,
        "state": final.state,
    }
    optional = {"fold": training.fold, "worker": final.worker, "traceback": final.error}
    optional |= {name: final.config.get(name) for name in ("backbone", "regime")}
    tags |= {name: value for name, value in optional.items() if value is not None}
    params = {name: final.config[name] for name in HYPERPARAMETERS if name in final.config}
    ended = final.arrival or 0.0
    return FinalRun(
        name=f"{training.name}: {runs.trial_name(row)}",
        tags={name: printable(value)[-runs.MAX_TAG :] for name, value in tags.items()},
        params={name: str(value) for name, value in params.items()},
        points=_points(final, moment=runs.to_milliseconds(ended)),
        status=runs.STATUSES[final.state],
        started=runs.to_milliseconds(max(0.0, ended - final.seconds)),
        ended=runs.to_milliseconds(ended),
    )


def _points(final: Final, *, moment: int) -> list[runs.Point]:
    """Metrics of the kept epoch; a refit has none of validation images."""
    step = final.kept_at_epoch or 0
    points = [
        (name, value if math.isfinite(value) else math.nan, moment, step)
        for name, value in final.metrics.items()
        if name in METRICS
    ]
    return [*points, ("seconds", final.seconds, moment, 0)]
