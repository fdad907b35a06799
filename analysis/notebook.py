"""Studies as tidy pandas frames, for notebooks: `from analysis import load_trials`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis import reading
from analysis.reading import EPOCH_COLUMNS, TRIAL_COLUMNS, find_study, load_study
from contract.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

RUNS = Path("runs")


def load_trials(*studies: str | Path, runs_dir: str | Path = RUNS) -> pd.DataFrame:
    """Load one row a trial of one or more studies, each a directory or a name under `runs_dir`.

    `frame.attrs["columns"]` says what each column means, with its unit, or that it is a hyperparameter.
    Metrics are those of the trial's kept epoch.

    Raises:
        ValueError: there is no such study.
    """
    import pandas as pd

    found = [load_study(find_study(study, runs_dir=Path(runs_dir))) for study in studies]
    frames = [reading.load_trials(study) for study in found]
    filled = [frame for frame in frames if len(frame)]
    frame = pd.concat(filled, ignore_index=True) if filled else frames[0]
    frame.attrs["columns"] = _describe(frame, TRIAL_COLUMNS)
    return frame


def load_epochs(study: str | Path, *, runs_dir: str | Path = RUNS) -> pd.DataFrame:
    """Load one row an epoch: trial, epoch, attempt, arrival, decision, then every metric that it reported."""
    frame = reading.load_epochs(load_study(find_study(study, runs_dir=Path(runs_dir))))
    frame.attrs["columns"] = _describe(frame, EPOCH_COLUMNS)
    return frame


def _describe(frame: pd.DataFrame, known: dict[str, str]) -> dict[str, str]:
    meanings = known | {name: metric.about for name, metric in METRICS.items()}
    return {str(name): meanings.get(str(name), "hyperparameter") for name in frame.columns}
