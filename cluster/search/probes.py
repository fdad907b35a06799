"""Probes: frozen heads of the search space, proposed and leased before anything is unfrozen."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler

from cluster.search.leasing import MAX_GROUP_SIZE, GroupOf
from cluster.search.proposals import Space
from cluster.searchers import Probe
from cluster.study.probe_records import ProbeRecord
from contract.lease_errors import LeaseError
from contract.probes import LeasedProbe, ProbeReport, frozen_head, has_frozen_head

DRAWS_A_PROBE = 8
"""Random configurations drawn for each probe, about 0.3 ms each: every backbone has to get its share."""
SHARE_AGAIN = 4
"""One in so many probes tries a good head again under another policy, where the space has any."""
MOST_CRASHES = 2
"""How often a probe may lose its worker before it is given up."""
_STREAM = (0, 0, 1)
"""Beside the study's seed, the entropy of the draws; proposals of trials have fewer numbers."""

CanProbe = Callable[[Mapping[str, Any]], bool]
"""Whether a frozen head's configuration is one that a probe can judge."""


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """The probes of a study, as far as they follow from its space and seed alone."""

    heads: tuple[dict[str, Any], ...]
    """Configurations of the first round, by number: no augmentation, one backbone after the other."""

    policies: tuple[str, ...]
    """Augmentation policies of the space, without "none"."""

    num_again: int
    """Number of probes that may follow, under those policies."""


def propose_probes(
    space: Space, seed: int, number: int, *, max_epochs: int, can_probe: CanProbe = lambda _: True
) -> ProbePlan:
    """Draw whole configurations of the space and turn each into a frozen head; none is there twice.

    The same seed gives the same plan. It is empty where the space has no frozen heads: nearest neighbours,
    training from scratch, and whatever `can_probe` refuses.
    """
    drawn = _draw(space, seed, DRAWS_A_PROBE * number, max_epochs=max_epochs)
    regimes = {config.get("regime", "finetune") for config in drawn if config.get("unfreeze_depth") == 0}
    heads: dict[str, dict[str, Any]] = {}
    for config in drawn:
        regime = config.get("regime", "finetune")
        head = frozen_head(config, regime=regime if regime in regimes else "linear_probe")
        if can_probe(head):
            heads.setdefault(json.dumps(head, sort_keys=True), head)
    policies = dict.fromkeys(str(config.get("policy", "none")) for config in drawn)
    policies.pop("none", None)
    num_again = number // SHARE_AGAIN if policies else 0
    chosen = _in_turns(heads.values())[: number - num_again]
    return ProbePlan(heads=tuple(chosen), policies=tuple(policies), num_again=num_again)


def propose_policies(plan: ProbePlan, best: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The second round: the best heads, given best first, each under every policy of the space."""
    again = [{**head, "policy": policy} for head in best for policy in plan.policies]
    return again[: plan.num_again]


def _draw(space: Space, seed: int, number: int, *, max_epochs: int) -> list[dict[str, Any]]:
    """Random configurations that have a frozen head, without those for which the space raises."""
    entropy = np.random.SeedSequence([seed, *_STREAM])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=RandomSampler(seed=int(entropy.generate_state(1)[0])))
    drawn = []
    for _ in range(number):
        trial = study.ask()
        try:
            fixed = space(trial)
        except Exception:  # outside the limits, or a bug that is recorded once the search proposes it
            continue
        # Through JSON: a resumed run reads it from there, and must hand out the very same.
        config = json.loads(json.dumps({"max_epochs": max_epochs, **trial.params, **fixed}))
        if has_frozen_head(config):
            drawn.append(config)
    return drawn


def _in_turns(heads: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One head of each backbone after the other, round after round."""
    by_backbone = defaultdict(list)
    for head in heads:
        by_backbone[head.get("backbone")].append(head)
    rounds = zip_longest(*by_backbone.values())
    return [head for heads_of_round in rounds for head in heads_of_round if head is not None]


class Probes:
    """What the search knows of its probes: those with a result, those on a worker, those that wait.

    All of it follows from the records, so a continued study goes on with the probes that have none.
    """

    def __init__(
        self,
        records: Iterable[ProbeRecord],
        plan: ProbePlan,
        *,
        number: int,
        group_of: GroupOf,
        measure: Callable[[Mapping[str, float]], float],
    ) -> None:
        """`number` is the study's; `measure` gives the score of a probe's metrics, higher is better."""
        self.records = {record.probe: record for record in records}
        self._plan, self._number, self._group_of, self._measure = plan, number, group_of, measure
        self._waiting = {n: head for n, head in enumerate(plan.heads) if n not in self.records}
        self._running: dict[int, dict[str, Any]] = {}
        self._crashes: dict[int, int] = defaultdict(int)
        self._had_second_round = False
        self._begin_second_round()

    @property
    def total(self) -> int:
        """Number of probes of the study, those that may follow included."""
        known = len(self.records) + len(self._waiting) + len(self._running)
        return known if self._had_second_round else len(self._plan.heads) + self._plan.num_again

    @property
    def num_done(self) -> int:
        return len(self.records)

    @property
    def is_open(self) -> bool:
        """Some probe has no result yet."""
        return bool(self._waiting or self._running)

    @property
    def is_running(self) -> bool:
        """A worker has probes."""
        return bool(self._running)

    def lease(self) -> tuple[LeasedProbe, ...]:
        """The next probes for one worker: the first that waits and others on the same features.

        One that was lost with its worker runs alone, so that it harms no other.
        """
        if not self._waiting:
            return ()
        first = min(self._waiting)
        group = self._group_of(self._waiting[first])
        chosen = [first]
        if not self._crashes[first]:
            alike = (n for n in sorted(self._waiting) if self._group_of(self._waiting[n]) == group)
            chosen = [n for n in alike if not self._crashes[n]][:MAX_GROUP_SIZE]
        self._running |= {n: self._waiting.pop(n) for n in chosen}
        return tuple(LeasedProbe(probe=n, config=self._running[n]) for n in chosen)

    def note(
        self, reports: Iterable[ProbeReport], *, worker: str | None, arrival: float
    ) -> list[ProbeRecord]:
        """Make the records of reports; one on a probe that no worker has is ignored."""
        records = []
        for report in reports:
            if report.probe not in self._running:
                continue
            record = ProbeRecord(
                probe=report.probe,
                config=self._running.pop(report.probe),
                metrics=dict(report.metrics) if report.error is None else None,
                seconds=round(report.seconds, 3),
                error=report.error,
                worker=worker,
                arrival=arrival,
            )
            self.records[report.probe] = record
            records.append(record)
        self._begin_second_round()
        return records

    def lost(self, probes: Iterable[LeasedProbe], error: LeaseError | None) -> list[ProbeReport]:
        """Count a crash of each probe that its worker left; returns the reports of those to give up."""
        text = error.message if error is not None else "the worker ended without a result"
        given_up = []
        for number in (one.probe for one in probes if one.probe in self._running):
            self._crashes[number] += 1
            if self._crashes[number] >= MOST_CRASHES:
                given_up.append(ProbeReport(probe=number, error=text))
        return given_up

    def put_back(self, probes: Iterable[LeasedProbe]) -> None:
        """Let those wait again that have no result."""
        numbers = [one.probe for one in probes if one.probe in self._running]
        self._waiting |= {number: self._running.pop(number) for number in numbers}

    def has_any(self, probes: Collection[LeasedProbe]) -> bool:
        """True while one of them has no result."""
        return any(one.probe in self._running for one in probes)

    def taught(self) -> list[Probe]:
        """What the probes with a result measured, by number."""
        return [
            Probe(
                config=record.config,
                score=self._measure(record.metrics),
                loss=float(record.metrics.get("val_loss", math.nan)),
                seconds=record.seconds,
            )
            for _, record in sorted(self.records.items())
            if record.metrics is not None and math.isfinite(self._measure(record.metrics))
        ]

    def _begin_second_round(self) -> None:
        """Once the first round has its results, add its best heads under the space's policies."""
        if self._had_second_round or self.is_open:
            return
        self._had_second_round = True
        first = [n for n in range(len(self._plan.heads)) if n in self.records]
        scores = {n: self._score(self.records[n]) for n in first}
        best = sorted((n for n in first if math.isfinite(scores[n])), key=lambda n: (-scores[n], n))
        again = propose_policies(self._plan, [self.records[n].config for n in best])
        numbered = enumerate(again, start=len(self._plan.heads))
        self._waiting |= {n: head for n, head in numbered if n not in self.records and n < self._number}

    def _score(self, record: ProbeRecord) -> float:
        return -math.inf if record.metrics is None else self._measure(record.metrics)


NO_PLAN = ProbePlan(heads=(), policies=(), num_again=0)


def start_probes(
    records: Iterable[ProbeRecord],
    *,
    space: Space,
    seed: int,
    number: int,
    max_epochs: int,
    group_of: GroupOf,
    can_probe: CanProbe,
    measure: Callable[[Mapping[str, float]], float],
) -> Probes:
    """The probes of a study where its records end; without any it asks the space nothing."""

    def fits(head: Mapping[str, Any]) -> bool:
        return group_of(head) is not None and can_probe(head)

    plan = NO_PLAN
    if number:
        plan = propose_probes(space, seed, number, max_epochs=max_epochs, can_probe=fits)
    return Probes(records, plan, number=number, group_of=group_of, measure=measure)
