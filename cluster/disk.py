"""Removes what ended trials leave behind, as soon as nobody needs it any more."""

from __future__ import annotations

from cluster.search import Search
from cluster.study_directory import Study

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
WEIGHTS = "model.pt"
PREDICTIONS = "predictions.npz"
PREDICTIONS_BYTES = 2 * 10**9
"""Most that the validation predictions of a study may take; the worst trials' go first.

An image takes 4 bytes a class and 16 more: 10,000 images of 100 classes are 4.2 MB, so that 480 trials fit.
"""


class Cleaner:
    """Of trials that have ended keep the predictions; of the best complete one, its weights too.

    A checkpoint is removed only once the outcome is in the database: until then a killed worker or driver may
    still need it.
    """

    def __init__(self, study: Study, search: Search, *, predictions_bytes: int = PREDICTIONS_BYTES) -> None:
        self._study, self._search = study, search
        self._limit = predictions_bytes
        self._sizes: dict[int, int] = {}
        self._with_weights: int | None = None

    def clean_all(self) -> None:
        """Whatever earlier runs left, too."""
        for number, trial in self._search.trials.items():
            if trial.outcome is not None:
                self.clean(number)

    def clean(self, number: int) -> None:
        """A trial has ended."""
        self._remove(number, *CHECKPOINTS)
        best = self._search.best_complete()
        keeps = None if best is None else best[0]
        if number != keeps:
            self._remove(number, WEIGHTS)
        if self._with_weights not in (None, keeps):
            self._remove(self._with_weights or 0, WEIGHTS)
        self._with_weights = keeps
        path = self._study.trial_directory(number) / PREDICTIONS
        if path.exists():
            self._sizes[number] = path.stat().st_size
            self._keep_budget()

    def _keep_budget(self) -> None:
        if sum(self._sizes.values()) <= self._limit:
            return
        order = sorted(self._sizes, key=self._search.scores.best_score)
        while sum(self._sizes.values()) > self._limit and len(order) > 1:
            worst = order.pop(0)
            self._remove(worst, PREDICTIONS)
            del self._sizes[worst]

    def _remove(self, number: int, *names: str) -> None:
        for name in names:
            (self._study.trial_directory(number) / name).unlink(missing_ok=True)
