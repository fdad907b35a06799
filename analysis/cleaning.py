"""Measures what a study's trials hold on disk, and frees what its answer does not need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from analysis.answer.record import load_answer
from analysis.reading import StudyInfo
from contract.study_layout import StudyPaths, TrialPaths

HEARTBEAT = 60.0
"""Seconds after which a driver that has not renewed its lock is dead."""


def measure_files(paths: StudyPaths) -> dict[str, int]:
    """Return the bytes of the candidates' weights, of predictions and of checkpoints."""
    sizes = dict.fromkeys(("weights", "predictions", "checkpoints"), 0)
    for trial in _trained(paths):
        for kind, files in _files_by_kind(trial).items():
            sizes[kind] += sum(_size(path) for path in files)
    return sizes


def clean_study(study: StudyInfo, *, predictions: bool = False) -> int:
    """Remove the weights of all candidates that are no part of the answer; returns the bytes that are free.

    The answer, the report and the records stay. What is gone cannot be chosen by `finalize.py` any more.

    Args:
        predictions: remove the predictions too, without which scores can neither be corrected nor compared.

    Raises:
        ValueError: the study runs.
    """
    if _is_driven(study.paths):
        raise ValueError(f"study {study.name!r} runs: wait for its end, or stop it first")
    answer = load_answer(study.paths)
    needed = set() if answer is None else {one.paths(study.paths).directory for one in answer.refs}
    freed = 0
    for trial in _trained(study.paths):
        files = _files_by_kind(trial)
        unneeded = [] if trial.directory in needed else files["weights"]
        for path in unneeded + (files["predictions"] if predictions else []):
            freed += _size(path)
            path.unlink(missing_ok=True)
    return freed


def _trained(paths: StudyPaths) -> Iterator[TrialPaths]:
    """Files of all trials and final trainings."""
    for folder in (paths.trials, paths.finals):
        for entry in sorted(folder.glob("[0-9]*")):
            yield TrialPaths(entry)


def _files_by_kind(trial: TrialPaths) -> dict[str, list[Path]]:
    return {
        "weights": [trial.weights],
        "predictions": sorted(trial.directory.glob("predictions*.npz")),
        "checkpoints": list(trial.checkpoints),
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_driven(paths: StudyPaths) -> bool:
    """True if a driver holds the study's lock and has renewed it lately."""
    try:
        found = paths.lock.stat()
    except OSError:
        return False
    return found.st_size > 0 and time.time() - found.st_mtime < HEARTBEAT
