"""Proposals: the in-memory Optuna study that the sampler works on, rebuilt from the database's records."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.searchers import Draw, MakeSampler, Probe
from cluster.study.records import Ending, TrialRecord
from cluster.study.space_probe import fit_to_space

Space = Callable[[optuna.Trial], Mapping[str, Any]]


class Untried:
    """Finds the configurations of a finite space that are not tried yet, on one walk through it."""

    def __init__(
        self, space: Space, *, is_tried: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    ) -> None:
        """`is_tried` takes suggested parameters and what the space returned for them."""
        self.is_endless = False
        """The space has a continuous hyperparameter, and so no last configuration."""
        self._is_tried = is_tried
        self._walk = _walk(space)
        self._first: tuple[dict[str, Any], Mapping[str, Any]] | None = None

    def first(self) -> dict[str, Any] | None:
        """Parameters of the next untried configuration; None after the last, and in an endless space."""
        while self._first is None or self._is_tried(*self._first):
            try:
                self._first = next(self._walk, None)
            except _EndlessError:
                self.is_endless = True
            if self._first is None or self.is_endless:
                return None
        return dict(self._first[0])


class _EndlessError(Exception):
    """A hyperparameter is continuous."""


def _walk(space: Space) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Yields suggested parameters and what the space returned for them, for each configuration.

    Combinations for which the space raises are left out, because they cannot be tried.

    Raises:
        _EndlessError: a hyperparameter is continuous.
    """
    path: list[int] = []
    while True:
        trial = _ScriptedTrial(path)
        try:
            yield trial.params, space(cast(optuna.Trial, trial))
        except _EndlessError:
            raise
        except Exception:  # outside the limits, or a bug that is recorded once the search proposes it
            pass
        path = _next_path(trial.taken, trial.numbers)
        if not path:
            return


class _ScriptedTrial:
    """A trial that takes the choices of a path (their indices), and the first choice of all that follow."""

    number = 0

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self.taken: list[int] = []
        self.numbers: list[int] = []
        """Number of choices at each step."""
        self._path = path

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, len(choices), lambda at: choices[at])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, **_: Any) -> Any:
        return self._take(name, (high - low) // step + 1, lambda at: low + at * step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, **_: Any
    ) -> Any:
        if low == high:
            return self._take(name, 1, lambda _: low)
        if step is None:
            raise _EndlessError(name)
        return self._take(name, round((high - low) / step) + 1, lambda at: low + at * step)

    def _take(self, name: str, number: int, value: Callable[[int], Any]) -> Any:
        if name not in self.params:
            depth = len(self.taken)
            self.taken.append(self._path[depth] if depth < len(self._path) else 0)
            self.numbers.append(number)
            self.params[name] = value(self.taken[-1])
        return self.params[name]


def _next_path(taken: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """The next path, counted up like the digits of a number; empty after the last."""
    path = list(taken)
    while path and path[-1] + 1 >= numbers[len(path) - 1]:
        path.pop()
    return [*path[:-1], path[-1] + 1] if path else []


INFEASIBLE = "infeasible"
CONSTRAINT = f"constraints:{INFEASIBLE}"
"""Attribute in which Optuna keeps a constraint; values above 0 violate it."""
MOST_ASKS = 10
"""How often the searcher is asked for an untried configuration."""
MOST_RANDOM_ASKS = 20
"""How often random search is asked after that, before the space is walked through."""
ATTEMPT_STRIDE = 2**16
"""Added to the index for each further attempt, for searchers that go by the index (qmc)."""


class Infeasible(Exception):
    """A space, or its check, refuses a configuration because it is outside the user's limits."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration that was asked for."""

    trial: FrozenTrial
    config: dict[str, Any]
    error: Exception | None
    """What the space raised; None if it did not."""

    @property
    def key(self) -> str:
        """Equal for proposals of the same configuration."""
        return _key(self.trial.params, self.config)


class Proposals:
    """Asks the sampler for configurations and tells it the results, in memory: 16 ms a trial instead of 300.

    The sampler is made anew for every trial, seeded by the study's seed and the number of trials proposed
    before (without given ones), so that the same history leads to the same proposal after any interruption.
    A configuration that is in the study already is not proposed again, because little is learnt from it.
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
        defaults: Mapping[str, Any],
        widths: Mapping[str, float] | None = None,
        probes: Callable[[], Sequence[Probe]] = lambda: (),
    ) -> None:
        """`defaults` are hyperparameters that the space leaves out; `probes` returns those with a result.

        `widths` are the space's, as in Draw.
        """
        self._space = space
        self._make_sampler = make_sampler
        self._seed = seed
        self._num_startup = num_startup
        self._defaults = dict(defaults)
        self._widths, self._probes = dict(widths or {}), probes
        self.num_trials = 0
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, directions=[StudyDirection[direction.upper()] for direction in directions]
        )
        self._num_given = 0
        self._tried: set[str] = set()
        for record in fit_to_space(list(history), space):
            assert record.number == self.num_trials, f"trial {self.num_trials} is missing in the database"
            self._study.add_trial(_as_frozen(record, metric))
            self.num_trials += 1
            self._num_given += "recipe" in record.attrs
            self._tried.add(_key(record.params, record.attrs["config"]))
        self._untried = Untried(space, is_tried=self._is_tried)

    @property
    def used_up(self) -> bool:
        """Every configuration of a finite space has been proposed; always False for an endless one."""
        return self._untried.first() is None and not self._untried.is_endless

    def ask(self, given: Mapping[str, Any] | None = None) -> Proposal | None:
        """The next trial, with its number; None once the whole space has been proposed.

        Given values, as of a recipe, replace both suggested and fixed values of the space. Without them the
        searcher is asked until its configuration is new, then random search; at last the space is walked
        through.
        """
        index = self.num_trials - self._num_given
        if given is None:
            proposal = self._propose_untried(index)
        else:
            proposal = self._propose(self._make_sampler(self._draw(index)), given)
            self._num_given += 1
        if proposal is None:
            return None
        assert proposal.trial.number == self.num_trials
        self.num_trials += 1
        self._tried.add(proposal.key)
        return proposal

    def _propose_untried(self, index: int) -> Proposal | None:
        for attempt in range(MOST_ASKS + MOST_RANDOM_ASKS):
            draw = self._draw(index, attempt)
            is_random = attempt >= MOST_ASKS
            sampler = RandomSampler(seed=draw.seed) if is_random else self._make_sampler(draw)
            proposal = self._propose(sampler)
            if proposal.key not in self._tried:
                return proposal
            self._withdraw(proposal)
        untried = self._untried.first()
        if untried is None and not self._untried.is_endless:
            return None
        # In an endless space whose random draws repeat, too, a repetition is the best there is.
        return self._propose(RandomSampler(seed=self._seed), untried)

    def _draw(self, index: int, attempt: int = 0) -> Draw:
        """What the sampler's random choices are derived from; each attempt has another draw."""
        entropy = [self._seed, index, attempt] if attempt else [self._seed, index]
        return Draw(
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
            study_seed=self._seed,
            index=index + attempt * ATTEMPT_STRIDE,
            num_startup=self._num_startup,
            widths=self._widths,
            probes=self._probes(),
        )

    def _propose(self, sampler: BaseSampler, given: Mapping[str, Any] | None = None) -> Proposal:
        self._study.sampler = sampler
        if given is not None:
            self._study.enqueue_trial(dict(given))
        trial = self._study.ask()
        config: dict[str, Any] = {}
        error: Exception | None = None
        try:
            with warnings.catch_warnings():
                # Optuna would take a given value that the space does not contain, and only warn.
                warnings.filterwarnings("error", message="Fixed parameter")
                fixed = self._space(trial)
            config = {**trial.params, **fixed, **(given or {})}
            # Through JSON: a resumed run reads it from there, and must hand out the very same.
            config = json.loads(json.dumps(config))
        except Exception as raised:  # a space is user code, whose error becomes the trial's reason
            error = raised
        frozen = self._storage.get_trial(trial._trial_id)
        return Proposal(trial=frozen, config=self._defaults | config, error=error)

    def _withdraw(self, proposal: Proposal) -> None:
        """Remove the newest proposal as if it had never been made.

        Optuna can only fail a trial, which would then keep its number and be missing in a continued study.
        """
        del self._storage._trial_id_to_study_id_and_number[proposal.trial._trial_id]
        self._storage._studies[self._study._study_id].trials.pop()
        self._storage._max_trial_id -= 1  # here a trial's id is its number

    def _is_tried(self, params: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
        return _key(params, self._defaults | {**params, **fixed}) in self._tried

    def report(self, number: int, epoch: int, value: float) -> None:
        """Tell the sampler the first metric of a running trial's epoch."""
        self._storage.set_trial_intermediate_value(number, epoch, value)

    def tell(self, ending: Ending) -> None:
        """Tell the sampler how a trial ended: a pruned one has only its curve, a failed one no value."""
        for key, value in ending.system_attrs.items():
            self._storage.set_trial_system_attr(ending.trial, key, value)
        values = list(ending.values or ()) if ending.state == TrialState.COMPLETE else None
        self._study.tell(ending.trial, values, state=ending.state)


def _key(params: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Equal for the same configuration; also defined where the space raised before it returned one."""
    return json.dumps({**params, **config}, sort_keys=True)


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
