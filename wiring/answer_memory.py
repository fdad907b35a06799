"""What an answer was made from, as a stamp, and measured costs that stay the same when it is made again."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contract.answer import Combination
from contract.files import save_json
from contract.study_layout import StudyPaths

Measure = Callable[[Combination], float]
"""Milliseconds for one image."""


OF_CANDIDATES = "predictions*.npz"
"""Names of the files that an answer is made from."""


def stamp_predictions(paths: StudyPaths) -> str:
    """Hash the content of all candidates' predictions: a copied study has the same, whenever it was copied.

    The checksums are those that the archives carry, so that little is read. Empty where all were freed.
    """
    pattern = f"*/{OF_CANDIDATES}"
    files = sorted(paths.trials.glob(pattern)) + sorted(paths.finals.glob(pattern))
    if not files:
        return ""
    seen = [(path.relative_to(paths.directory).as_posix(), _checksums(path)) for path in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _checksums(path: Path) -> list[tuple[str, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [(part.filename, part.CRC) for part in archive.infolist()]
    except zipfile.BadZipFile:  # torn: it is no candidate's
        return [("", path.stat().st_size)]


def measure_once(
    paths: StudyPaths, measure: Measure, *, device: str
) -> Callable[[Mapping[str, Combination]], dict[str, float]]:
    """Make a measurement of combinations, by rule, that is written down before anything is chosen by it.

    Two measurements differ, and the choice may hang on them: an answer that is made again, after a kill or
    for the test reading, is to be the same.

    Args:
        device: what it is measured on: another one is measured anew.
    """

    def measured(combinations: Mapping[str, Combination]) -> dict[str, float]:
        known = _load(paths)
        found = {}
        for rule, one in combinations.items():
            key = f"{device}: {one.pooling}: " + ", ".join(sorted(m.ref.name for m in one.members))
            if key not in known:
                known[key] = measure(one)
            found[rule] = known[key]
        if known != _load(paths):
            save_json(paths.costs, known)
        return found

    return measured


def _load(paths: StudyPaths) -> dict[str, float]:
    try:
        found: Any = json.loads(paths.costs.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
