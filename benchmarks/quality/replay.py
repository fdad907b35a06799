"""Replays a search on the table: its own driver code with recorded trials, in simulated time."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from benchmarks.quality.rows import MAX_EPOCHS, SPACE, VARIED, Row, recipes
from benchmarks.quality.table import KeptEpoch, Table, Ties, prefix_key, values
from cluster.schedulers import load_scheduler
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import Draw, load_searcher
from cluster.study.config import StudyConfig
from cluster.study.records import Records
from cluster.study.search_choice import choose_probes
from contract.messages import Action, Lease, Outcome, Report
from contract.predictions import pack_classes
from contract.probes import LeasedProbe, ProbeReport
from search_spaces import load_space
from trainables.batch_groups import batch_group

LEASE_SECONDS = 0.1
"""What handing a lease to a warm worker takes."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to search."""

    searcher: str
    scheduler: str
    rule: KeptEpoch
    ties: Ties = "cost"
    probes: bool = False
    """Probe several backbones first, as the project does by default."""

    only_recipes: bool = False


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay handed over, and what it spent."""

    row: int
    test_accuracy: float
    seconds: float
    """Until the last slot was idle."""

    trials: int
    complete: int
    probes: int = 0
    finished: tuple[int, ...] = ()
    """Rows of the trials that ran to their end."""


class World:
    """The rows of a table that a replay may use, and the space that they were drawn from."""

    def __init__(self, table: Table, rows: Sequence[Row], *, backbones: tuple[str, ...]) -> None:
        self.table, self.backbones = table, backbones
        self.rows = [row for row in rows if row.config["backbone"] in backbones]
        self.config_of = {row.number: row.config for row in self.rows}
        self.number_of = {_key(row.config): row.number for row in self.rows}
        self.distributions = _distributions(backbones)
        self._points = np.array([self._place(values(row)) for row in self.rows])

    def space(self, trial: optuna.Trial) -> dict[str, Any]:
        return load_space(SPACE).propose(trial, backbones=self.backbones, max_epochs=MAX_EPOCHS)

    def recipes(self) -> list[tuple[str, dict[str, Any]]]:
        return [(recipe.name, recipe.config) for recipe in recipes()]

    def number_of_config(self, config: Mapping[str, Any]) -> int:
        """The row of a configuration that a replay proposed."""
        return self.number_of[_key(config)]

    def nearest(self, wanted: Mapping[str, Any], taken: Iterable[int] = ()) -> Row:
        """The nearest row that is not taken."""
        distances = (np.abs(self._points - self._place(wanted)) ** 2).sum(axis=1)
        used = set(taken)
        order = np.argsort(distances, kind="stable")
        return next(self.rows[at] for at in order if self.rows[at].number not in used)

    def _place(self, wanted: Mapping[str, Any]) -> list[float]:
        """A configuration as a point; an unfrozen network is far from a frozen one, as are two backbones."""
        place: list[float] = [3.0 * (wanted["unfreeze_depth"] > 0), 0.5 * wanted["unfreeze_depth"]]
        place += [3.0 * (wanted["backbone"] == backbone) for backbone in self.backbones]
        place += [np.log2(wanted["batch_size"] / 16) / 4, np.log(wanted["learning_rate"] / 3e-4) / 3.5]
        place += [wanted["dropout"], (0, 128, 512).index(wanted["head_width"]) / 2]
        return [*place, 0.5 * (wanted["policy"] == "none")]


class Snapped(BaseSampler):
    """Proposes the untried row that is nearest to what another sampler proposes."""

    def __init__(self, inner: BaseSampler, world: World) -> None:
        self._inner, self._world = inner, world

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._world.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.system_attrs.get("fixed_params"):
            return {}
        trial = copy.deepcopy(trial)  # the study's own must not get values that are not proposed
        inner, own = self._inner, self._inner.infer_relative_search_space(study, trial)
        wanted = inner.sample_relative(study, trial, own)
        for name, distribution in search_space.items():
            if name not in wanted:
                wanted[name] = inner.sample_independent(study, trial, name, distribution)
                trial.params[name], trial.distributions[name] = wanted[name], distribution
        others = (other.params for other in study.get_trials(deepcopy=False) if other.number != trial.number)
        taken = [self._world.number_of[_key(params)] for params in others if len(params) == len(search_space)]
        return values(self._world.nearest(wanted, taken))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


class _NoRecords:
    """Keeps nothing: a replay is never continued."""

    def load(self) -> list[Any]:
        return []

    def load_probes(self) -> list[Any]:
        return []

    def record(self, *_: Any, **__: Any) -> None:
        pass

    def record_probes(self, *_: Any) -> None:
        pass


def replay(
    world: World,
    method: Method,
    *,
    num_trials: int,
    slots: int,
    seed: int,
    seconds: float = np.inf,
    on_ended: Callable[[Search, float], None] = lambda *_: None,
    warm_starts: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Replayed:
    """Run one study on the table, for a number of trials or at most `seconds`, and choose by validation.

    Args:
        on_ended: called with the search and the seconds so far after each trial's end.
    """
    clock = Clock(world.table)
    make = load_searcher(method.searcher)

    def make_sampler(draw: Draw) -> BaseSampler:
        return Snapped(make(draw), world)

    num_trials = len(world.recipes()) if method.only_recipes else min(num_trials, len(world.rows) // 4)
    config = StudyConfig(space=SPACE, searcher=method.searcher)
    num_probes = choose_probes(config, num_trials=num_trials, num_backbones=len(world.backbones))
    setup = SearchSetup(
        space=lambda trial: {**world.space(trial), "kept_epoch": method.rule},
        recipes=world.recipes(),
        warm_starts=warm_starts,
        make_sampler=make_sampler,
        widths=load_space(SPACE).widths,
        scheduler=load_scheduler(method.scheduler),
        num_trials=num_trials,
        seed=seed,
        metrics=["val_accuracy"],
        max_epochs=MAX_EPOCHS,
        val_labels=world.table.val_labels.astype(np.int64),
        group_of=batch_group,
        num_probes=num_probes if method.probes else 0,
    )
    search = Search(cast(Records, _NoRecords()), setup, now=lambda: clock.now)
    search.set_slots(slots)
    search.ends_at = seconds
    run = _Run(world, search, clock, seed=seed, on_ended=on_ended)
    run.until(seconds, slots=slots)
    complete = [trial for trial in search.trials.values() if trial.outcome is Outcome.COMPLETE]
    finished = [run.row(trial.config) for trial in complete]
    row = world.table.choose(finished, method.rule, seed=seed, ties=method.ties)
    return Replayed(
        row=row,
        test_accuracy=world.table.test_of(row, method.rule),
        seconds=clock.now,
        trials=len(search.trials),
        complete=len(complete),
        probes=search.probes.num_done,
        finished=tuple(finished),
    )


class Clock:
    """Simulated time, and what an epoch takes in it."""

    def __init__(self, table: Table) -> None:
        self.now = 0.0
        self._table = table
        self._passed: set[tuple[str, str, int]] = set()
        """Frozen parts whose activations are cached, by backbone, policy and epoch."""

    def epoch_seconds(self, training: int, config: Mapping[str, Any], epoch: int) -> float:
        """Seconds of an epoch (from 1); the first trial to need a frozen part's pass pays for it."""
        key = prefix_key(dict(config))
        seconds = float(self._table.steady_seconds[training])
        if (*key, epoch) not in self._passed:
            self._passed.add((*key, epoch))
            seconds += float(self._table.prefix_seconds[key][epoch - 1])
        return seconds


class _Run:
    def __init__(
        self,
        world: World,
        search: Search,
        clock: Clock,
        *,
        seed: int,
        on_ended: Callable[[Search, float], None],
    ) -> None:
        self.world, self.search, self.clock, self.seed = world, search, clock, seed
        self._on_ended = on_ended

    def row(self, config: Mapping[str, Any]) -> int:
        return self.world.number_of_config(config)

    def until(self, seconds: float, *, slots: int) -> None:
        """Keep all slots busy until the search is over, or the time is."""
        queue = [(0.0, slot) for slot in range(slots)]
        steps: dict[int, Any] = {}
        idle: list[int] = []
        while queue:
            now, slot = heapq.heappop(queue)
            if now > seconds:
                break
            self.clock.now = now
            took = next(steps[slot], None) if slot in steps else None
            if took is None:
                steps.pop(slot, None)
                lease = self.search.next_lease()
                if not isinstance(lease, Lease):
                    idle.append(slot)
                    continue
                steps[slot] = self._work(lease)
                took = LEASE_SECONDS
            heapq.heappush(queue, (now + took, slot))
            for other in idle:  # something has changed: a slot that waited may have work
                heapq.heappush(queue, (now + 1e-6, other))
            idle.clear()

    def _work(self, lease: Lease) -> Any:
        """Yield the seconds of each epoch, and report it once they have passed."""
        for probe in lease.probes:
            yield from self._probe(probe)
        self.search.lease_started(lease)
        for leased in lease.trials:
            training = self.world.table.training(self.row(leased.config), self.seed)
            for epoch in range(leased.done_epochs + 1, (leased.until_epoch or MAX_EPOCHS) + 1):
                yield self.clock.epoch_seconds(training, leased.config, epoch)
                if self._report(leased.trial, leased.attempt, training, epoch) is not Action.CONTINUE:
                    break
        self.search.lease_ended(lease)

    def _probe(self, probe: LeasedProbe) -> Iterator[float]:
        """Yield the seconds of each epoch of a frozen head, and report its last."""
        training = self.world.table.training(self.world.nearest(probe.config).number, self.seed)
        seconds = 0.0
        for epoch in range(1, MAX_EPOCHS + 1):
            took = self.clock.epoch_seconds(training, probe.config, epoch)
            seconds += took
            yield took
        metrics = self._metrics(training, MAX_EPOCHS)
        self.search.receive_probes([ProbeReport(probe=probe.probe, metrics=metrics, seconds=seconds)])

    def _metrics(self, training: int, epoch: int) -> dict[str, float]:
        table = self.world.table
        return {
            "val_accuracy": float(table.val_accuracy[training, epoch - 1]),
            "val_loss": float(table.val_loss[training, epoch - 1]),
        }

    def _report(self, trial: int, attempt: int, training: int, epoch: int) -> Action:
        table = self.world.table
        report = Report(
            trial=trial,
            attempt=attempt,
            epoch=epoch,
            metrics=self._metrics(training, epoch),
            predicted=pack_classes(table.predicted[:, training, epoch - 1]),
            outcome=Outcome.COMPLETE if epoch == MAX_EPOCHS else None,
        )
        decision = self.search.receive([report])[0]
        if decision.outcome is not None:
            self._on_ended(self.search, self.clock.now)
        return decision.action


def _key(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(config[name] for name in VARIED)


def _distributions(backbones: tuple[str, ...]) -> dict[str, BaseDistribution]:
    study = optuna.create_study()
    trial = study.ask()
    load_space(SPACE).propose(trial, backbones=backbones, max_epochs=MAX_EPOCHS)
    assert all(isinstance(one, BaseDistribution) for one in trial.distributions.values())
    return dict(trial.distributions)
