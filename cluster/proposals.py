"""The in-memory Optuna study that the sampler works on, rebuilt from the records when a study goes on."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.records import Ending, TrialRecord
from cluster.searchers import Draw, MakeSampler
from cluster.space_probe import fit_to_space

INFEASIBLE = "infeasible"
CONSTRAINT = f"constraints:{INFEASIBLE}"
"""Optuna's own attribute of a constraint: above 0 is outside."""
Space = Callable[[optuna.Trial], Mapping[str, Any]]


class Infeasible(Exception):
    """Raised by a space or its check: this configuration is outside the user's limits."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    trial: FrozenTrial
    config: dict[str, Any]
    error: Exception | None
    """What the space raised, if it did."""


class Proposals:
    """Asks for configurations and tells what became of them, in memory: 16 ms a trial instead of 300.

    The sampler is made anew for every trial, seeded by the study's seed and how many trials were proposed
    before (given ones not counted), so that the same history gives the same proposal
    whatever happened between.
    """

    def __init__(
        self,
        space: Space,
        *,
        make_sampler: MakeSampler,
        seed: int,
        directions: Sequence[str],
        num_startup: int,
        history: Iterable[TrialRecord],
        metric: str,
    ) -> None:
        self._space = space
        self._make_sampler = make_sampler
        self._seed = seed
        self._num_startup = num_startup
        self.num_trials = 0
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, directions=[StudyDirection[direction.upper()] for direction in directions]
        )
        self._num_given = 0
        for record in fit_to_space(list(history), space):
            assert record.number == self.num_trials, f"trial {self.num_trials} is missing in the database"
            self._study.add_trial(_as_frozen(record, metric))
            self.num_trials += 1
            self._num_given += "prior" in record.attrs

    def ask(self, prior: Mapping[str, Any] | None = None) -> Proposal:
        """The next trial, under its number.

        A prior's values replace those of the space, the suggested and the fixed ones alike.
        """
        number, index = self.num_trials, self.num_trials - self._num_given
        self._num_given += prior is not None
        draw = Draw(
            seed=int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0]),
            study_seed=self._seed,
            index=index,
            num_startup=self._num_startup,
        )
        self._study.sampler = self._make_sampler(draw)
        if prior is not None:
            self._study.enqueue_trial(dict(prior))
        trial = self._study.ask()
        assert trial.number == number
        self.num_trials += 1
        config: dict[str, Any] = {}
        error: Exception | None = None
        try:
            with warnings.catch_warnings():
                # Optuna would take a prior's value that the space does not contain, and only warn.
                warnings.filterwarnings("error", message="Fixed parameter")
                fixed = self._space(trial)
            config = {**trial.params, **fixed, **(prior or {})}
            # Through JSON: a resumed run reads it from there, and must hand out the very same.
            config = json.loads(json.dumps(config))
        except Exception as raised:  # the space is somebody's code: its error becomes the trial's reason
            error = raised
        return Proposal(trial=self._storage.get_trial(trial._trial_id), config=config, error=error)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._storage.set_trial_intermediate_value(number, epoch, value)

    def tell(self, ending: Ending) -> None:
        """End a trial as what it was: a pruned one keeps its curve, a failed one has no value."""
        for key, value in ending.system_attrs.items():
            self._storage.set_trial_system_attr(ending.trial, key, value)
        values = list(ending.values or ()) if ending.state == TrialState.COMPLETE else None
        self._study.tell(ending.trial, values, state=ending.state)


def _as_frozen(record: TrialRecord, metric: str) -> FrozenTrial:
    curve = {epoch: float(row.metrics.get(metric, math.nan)) for epoch, row in sorted(record.epochs.items())}
    values = record.values if record.state == TrialState.COMPLETE else None
    return create_trial(
        state=record.state,
        values=values,
        params=record.params,
        distributions=record.distributions,
        system_attrs=record.system_attrs,
        intermediate_values=curve,
    )
