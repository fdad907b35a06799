"""Frees what a study's answer does not need of its candidates' files."""

from __future__ import annotations

import time

from analysis.answer.record import load_answer
from analysis.disk import files_by_kind, list_trained, size_of
from analysis.reading import StudyInfo
from contract.study_layout import StudyPaths

HEARTBEAT = 60.0
"""Seconds after which a driver that has not renewed its lock is dead."""


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
    for trial in list_trained(study.paths):
        files = files_by_kind(trial)
        unneeded = [] if trial.directory in needed else files["weights"]
        for path in unneeded + (files["predictions"] if predictions else []):
            freed += size_of(path)
            path.unlink(missing_ok=True)
    return freed


def _is_driven(paths: StudyPaths) -> bool:
    """True if a driver holds the study's lock and has renewed it lately."""
    try:
        found = paths.lock.stat()
    except OSError:
        return False
    return found.st_size > 0 and time.time() - found.st_mtime < HEARTBEAT
