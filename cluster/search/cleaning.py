"""Removes the files of ended trials as soon as they are not needed any more."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cluster.search.search import Search
from contract.messages import Outcome
from contract.study_layout import StudyPaths

logger = logging.getLogger("unfreeze")

FINALISTS = 20
"""Number of best complete trials that keep their weights, beside the best published recipe.

They are the candidates for the answer, which combines them or chooses one: as many as a greedy ensemble looks
at. Only what trained is stored, a few kB of a head on a frozen backbone.
"""
WEIGHTS_BYTES = 10 * 10**9
"""Limit on the finalists' weights in all; those that exceed it are removed, but never the best trial's."""
PREDICTIONS_BYTES = 2 * 10**9
"""Limit on the validation predictions of a study in all; those of the worst trials are removed first.

An image takes 4 bytes a class and 16 more, above 500 classes 0.6 kB: 10,000 images of 100 classes are 4.2 MB,
so that 480 trials fit.
"""


CHECKPOINT_BYTES = 10 * 10**9
"""Limit on the checkpoints of paused trials in all; beyond, the worst of these trials end.

A paused trial of a ResNet-50 that is wholly unfrozen holds 0.3 GB with Adam's moments, so that 30 fit.
"""


class Cleaner:
    """Keeps the predictions of ended trials and the weights of the finalists, and removes their other files.

    A checkpoint is removed only once the outcome is in the database, because a killed worker or driver may
    need it until then. Trials that run keep everything, and paused ones as long as their checkpoints fit.
    """

    def __init__(
        self,
        paths: StudyPaths,
        search: Search,
        *,
        predictions_bytes: int = PREDICTIONS_BYTES,
        weights_bytes: int = WEIGHTS_BYTES,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        self._paths, self._search = paths, search
        self._limit, self._weights_limit = predictions_bytes, weights_bytes
        self._checkpoint_limit = checkpoint_bytes
        self._sizes: dict[int, int] = {}
        self._left: set[Path] = set()
        """Files that could not be removed yet."""
        self._with_weights: set[int] = set()

    def clean_all(self) -> None:
        """Remove what this run and earlier ones left of every ended trial."""
        ended = [number for number, trial in self._search.trials.items() if trial.outcome is not None]
        for number in ended:
            self._clean_ended(number)
        self._keep_finalists(ended)

    def clean(self, number: int) -> None:
        """Remove what a trial that has just ended leaves; of one that paused, see that its checkpoint fits.

        A file that cannot be removed, say on a share that does not answer, is tried again with the next trial
        and at last by `clean_all`; the search goes on.
        """
        if self._search.trials[number].outcome is None:
            for ended in self._end_paused():
                self.clean(ended)
            return
        self._clean_ended(number)
        self._keep_finalists([number])

    def _clean_ended(self, number: int) -> None:
        """Remove the checkpoints of a trial, and its predictions too if it failed or was infeasible."""
        paths, outcome = self._paths.trial(number), self._search.trials[number].outcome
        self._remove(*paths.checkpoints)
        if outcome is not None and outcome.has_value:
            self._note_predictions(number)
        else:
            self._remove(paths.predictions)

    def _end_paused(self) -> list[int]:
        """End the paused trials, the worst first, whose checkpoints are too much; returns their numbers."""
        sizes = {number: self._checkpoint_size(number) for number in self._search.paused}
        order = sorted(sizes, key=lambda number: (self._search.scores.kept_score(number), -number))
        ended = []
        while order and sum(sizes.values()) > self._checkpoint_limit:
            ended.append(order.pop(0))
            del sizes[ended[-1]]
        if ended:
            self._search.prune_paused(ended, why="no room on disk for its checkpoint")
        return ended

    def _checkpoint_size(self, number: int) -> int:
        """Bytes of a trial's checkpoints; those that cannot be looked at now count nothing."""
        size = 0
        for path in self._paths.trial(number).checkpoints:
            with suppress(OSError):
                size += path.stat().st_size
        return size

    def _keep_finalists(self, ended: Iterable[int]) -> None:
        """Remove the weights of trials that have just ended and of former finalists."""
        finalists = self._find_finalists()
        for number in self._with_weights.union(ended) - finalists:
            self._remove(self._paths.trial(number).weights)
        self._with_weights = finalists

    def _find_finalists(self) -> set[int]:
        """The best complete trials and the best recipe within the disk budget, in the order of the ranking.

        The recipe is what the answer is compared with on the test split, so it comes second.
        """
        complete = [n for n, trial in self._search.trials.items() if trial.outcome is Outcome.COMPLETE]
        ranked = heapq.nsmallest(FINALISTS, complete, key=self._search.scores.rank)
        recipes = [n for n in complete if self._search.trials[n].is_recipe]
        if recipes:
            ranked.insert(1, min(recipes, key=self._search.scores.rank))
        kept: set[int] = set()
        left = self._weights_limit
        for number in dict.fromkeys(ranked):
            path = self._paths.trial(number).weights
            size = path.stat().st_size if path.exists() else 0
            if size <= left or not kept:
                kept.add(number)
                left -= size
        return kept

    def _note_predictions(self, number: int) -> None:
        path = self._paths.trial(number).predictions
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
        order = sorted(self._sizes, key=self._search.scores.kept_score)
        while sum(self._sizes.values()) > self._limit and len(order) > 1:
            worst = order.pop(0)
            self._remove(self._paths.trial(worst).predictions)
            del self._sizes[worst]

    def _remove(self, *paths: Path) -> None:
        for path in self._left.union(paths):
            try:
                path.unlink(missing_ok=True)
                self._left.discard(path)
            except OSError as error:
                if path not in self._left:
                    logger.warning("%s is not removed yet: %s", path, error.strerror)
                self._left.add(path)
