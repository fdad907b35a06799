"""Measures what a study's candidates hold on disk: weights, predictions and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contract.study_layout import StudyPaths, TrialPaths


def measure_files(paths: StudyPaths) -> dict[str, int]:
    """Return the bytes of the candidates' weights, of predictions and of checkpoints."""
    sizes = dict.fromkeys(("weights", "predictions", "checkpoints"), 0)
    for trial in list_trained(paths):
        for kind, files in files_by_kind(trial).items():
            sizes[kind] += sum(size_of(path) for path in files)
    return sizes


def list_trained(paths: StudyPaths) -> Iterator[TrialPaths]:
    """Files of all trials and final trainings."""
    for folder in (paths.trials, paths.finals):
        for entry in sorted(folder.glob("[0-9]*")):
            yield TrialPaths(entry)


def files_by_kind(trial: TrialPaths) -> dict[str, list[Path]]:
    return {
        "weights": [trial.weights],
        "predictions": sorted(trial.directory.glob("predictions*.npz")),
        "checkpoints": list(trial.checkpoints),
    }


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
