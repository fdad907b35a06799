"""Finding a study: its directory, and what study.json says about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """What study.json says, with the parts that the analysis needs by name."""

    directory: Path
    name: str
    created: str
    space: str
    data: str
    metric: str
    """The metric that ranks trials: the first, if the study has several."""

    maximize: bool
    status: str
    """new, running, finished, stopped (interrupted, or out of time) or failed."""

    storage_url: str
    facts: Mapping[str, Any]
    """The whole of study.json."""

    @property
    def key(self) -> str:
        """Tells this study from an earlier one of the same name whose directory was deleted."""
        return f"{self.name}@{self.created}"


def find_study(study: str | Path, *, runs_dir: Path = Path("runs")) -> Path:
    """The absolute directory of a study, given as a directory or as a name under `runs_dir`.

    Raises:
        ValueError: there is none; the message holds the nearest names.
    """
    for candidate in (Path(study), runs_dir / study):
        if (candidate / "study.json").is_file():
            return candidate.resolve()
    known = list_studies(runs_dir)
    near = get_close_matches(Path(study).name, known, n=3, cutoff=0.4) or known[:5]
    hint = f"did you mean {', '.join(near)}?" if near else f"{runs_dir} holds no study"
    raise ValueError(f"no study {str(study)!r}: {hint}")


def list_studies(runs_dir: Path) -> list[str]:
    """Names of the studies under a directory, in alphabetical order."""
    return sorted(path.parent.name for path in runs_dir.glob("*/study.json"))


def load_study(directory: Path) -> StudyInfo:
    """Read study.json.

    Raises:
        ValueError: there is no readable study.json.
    """
    path = directory / "study.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        data = facts.get("data") or {}
        return StudyInfo(
            directory=directory.resolve(),
            name=facts["study"],
            created=str(facts["created"]),
            space=facts["space"],
            data=Path(str(data.get("source", ""))).name,
            metric=facts["metric"].split(",")[0],
            maximize=facts["direction"].split(",")[0] == "maximize",
            status=facts["status"],
            storage_url=facts["storage"],
            facts=facts,
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error!r}") from error
