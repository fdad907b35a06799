"""Removes what ended trials leave behind and nobody needs any more."""

from __future__ import annotations

from cluster.search import Search
from cluster.study_directory import Study

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
WEIGHTS = "model.pt"


def remove_useless_files(study: Study, search: Search) -> None:
    """Of trials that have ended keep the predictions; of the best complete one, its weights too.

    A checkpoint is removed only here, once the outcome is in the database: until then a killed worker or
    driver may still need it.
    """
    best = search.best_complete()
    for number, trial in search.trials.items():
        if trial.outcome is None:
            continue
        useless = CHECKPOINTS if best and number == best[0] else (*CHECKPOINTS, WEIGHTS)
        for name in useless:
            (study.trial_directory(number) / name).unlink(missing_ok=True)
