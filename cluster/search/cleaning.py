"""Removes what ended trials leave behind, as soon as nobody needs it any more."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable
from pathlib import Path

from cluster.search.search import Search
from cluster.study.directory import Study

logger = logging.getLogger("unfreeze")

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
WEIGHTS = "model.pt"
FINALISTS = 5
"""So many of the best complete trials keep their weights.

That is a second choice should the best prove too slow or too large, and enough for an ensemble: each further
member brings less than the one before.
"""
WEIGHTS_BYTES = 10 * 10**9
"""Most that the finalists' weights may take; those that do not fit go. The best trial's stay in any case."""
PREDICTIONS = "predictions.npz"
PREDICTIONS_BYTES = 2 * 10**9
"""Most that the validation predictions of a study may take; the worst trials' go first.

An image takes 4 bytes a class and 16 more: 10,000 images of 100 classes are 4.2 MB, so that 480 trials fit.
"""


class Cleaner:
    """Of trials that have ended keep the predictions; of the finalists, their weights too.

    A checkpoint is removed only once the outcome is in the database: until then a killed worker or driver may
    still need it. Trials that run or are paused keep everything.
    """

    def __init__(
        self,
        study: Study,
        search: Search,
        *,
        predictions_bytes: int = PREDICTIONS_BYTES,
        weights_bytes: int = WEIGHTS_BYTES,
    ) -> None:
        self._study, self._search = study, search
        self._limit, self._weights_limit = predictions_bytes, weights_bytes
        self._sizes: dict[int, int] = {}
        self._left: set[Path] = set()
        self._with_weights: set[int] = set()

    def clean_all(self) -> None:
        """Whatever earlier runs left, too."""
        ended = [number for number, trial in self._search.trials.items() if trial.outcome is not None]
        for number in ended:
            self._remove(number, *CHECKPOINTS)
            self._note_predictions(number)
        self._keep_finalists(ended)

    def clean(self, number: int) -> None:
        """A trial has ended.

        A file that cannot be removed now, since the share does not answer, is tried again with the next trial
        and at last by `clean_all`: the search does not end for it.
        """
        self._remove(number, *CHECKPOINTS)
        self._note_predictions(number)
        self._keep_finalists([number])

    def _keep_finalists(self, ended: Iterable[int]) -> None:
        """Remove the weights of the trials that have just ended, and of earlier finalists, that are none."""
        finalists = self._find_finalists()
        for number in self._with_weights.union(ended) - finalists:
            self._remove(number, WEIGHTS)
        self._with_weights = finalists

    def _find_finalists(self) -> set[int]:
        """The best complete trials, the earlier of equals first, as far as the disk budget reaches."""
        complete = (n for n, trial in self._search.trials.items() if trial.outcome == "complete")
        score = self._search.scores.best_score
        ranked = heapq.nsmallest(FINALISTS, complete, key=lambda number: (-score(number), number))
        kept: set[int] = set()
        left = self._weights_limit
        for number in ranked:
            path = self._study.trial_directory(number) / WEIGHTS
            size = path.stat().st_size if path.exists() else 0
            if size <= left or not kept:
                kept.add(number)
                left -= size
        return kept

    def _note_predictions(self, number: int) -> None:
        path = self._study.trial_directory(number) / PREDICTIONS
        try:
            self._sizes[number] = path.stat().st_size
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("the size of %s is unknown: %s", path, error.strerror)
            return
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
        paths = {self._study.trial_directory(number) / name for name in names}
        for path in paths | self._left:
            try:
                path.unlink(missing_ok=True)
                self._left.discard(path)
            except OSError as error:
                if path not in self._left:
                    logger.warning("%s is not removed yet: %s", path, error.strerror)
                self._left.add(path)
