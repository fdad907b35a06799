"""SearchSetup: what a search needs beside its records, and the parts that are built from both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.schedulers import Scheduler, Shares, even_shares
from cluster.search.leasing import GroupOf
from cluster.search.probes import CanProbe, Probes, start_probes
from cluster.search.proposals import Proposals, Space
from cluster.search.scores import Scores
from cluster.search.time_left import Expect
from cluster.searchers import MakeSampler, Probe
from cluster.study.records import Records, TrialRecord
from contract.metrics import Direction


@dataclass(frozen=True, kw_only=True)
class SearchSetup:
    """Everything that a search needs beside the records from which it goes on."""

    space: Space
    """`space(trial)` suggests what varies and returns the rest, or the whole configuration; it may raise
    Infeasible."""

    recipes: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Name and configuration of published recipes: tried first, and never stopped or paused early."""

    warm_starts: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Name and configuration from earlier studies: tried next, and judged like any other trial."""

    make_sampler: MakeSampler
    widths: Mapping[str, float] = field(default_factory=dict)
    """Widths of the steps that a searcher takes, by hyperparameter, where the space states them."""

    scheduler: Scheduler
    num_trials: int
    seed: int
    metrics: Sequence[str]
    """Objectives; schedulers and the ranking go by the first."""

    directions: Sequence[str] = (Direction.MAXIMIZE,)
    max_epochs: int
    num_startup: int = 10
    """Trials that a model-based searcher needs before it uses its model."""

    patience: int | None = None
    """The study stops after so many ended trials without a gain; None means never."""

    group_of: GroupOf = lambda _: None
    """Trials with the same key may share a lease, up to the next rung; None means that a trial runs alone."""

    shares_of: Callable[[Mapping[str, Any]], Shares] = lambda config: even_shares(config["max_epochs"])
    """Share of a configuration's planned updates done after each of its epochs."""

    expected_seconds: Expect = lambda _: 0.0
    """Worker seconds that a configuration's whole schedule is expected to take; 0 where nothing is known."""

    val_labels: NDArray[np.int64] | None = None
    """Classes of the validation images, [images], in the order of the reports' predictions; None where trials
    look at others."""

    val_groups: NDArray[np.int64] | None = None
    """Numbers from 0, equal for validation images that belong together; None where each is its own group."""

    num_probes: int = 0
    """Frozen heads that are judged before the first proposal; fewer where the space has fewer."""

    can_probe: CanProbe = lambda _: True
    """Whether the frozen backbone of a head's configuration has features worth a probe."""


def make_probes(setup: SearchSetup, records: Records, scores: Scores) -> Probes:
    sign = Direction(setup.directions[0]).sign
    return start_probes(
        records.load_probes() if setup.num_probes else (),
        space=setup.space,
        seed=setup.seed,
        number=setup.num_probes,
        max_epochs=setup.max_epochs,
        group_of=setup.group_of,
        can_probe=setup.can_probe,
        measure=lambda metrics: sign * scores.value(metrics),
    )


def make_proposals(
    setup: SearchSetup, history: Iterable[TrialRecord], probes: Callable[[], Sequence[Probe]]
) -> Proposals:
    return Proposals(
        setup.space,
        make_sampler=setup.make_sampler,
        widths=setup.widths,
        seed=setup.seed,
        directions=setup.directions,
        num_startup=setup.num_startup,
        history=history,
        metric=setup.metrics[0],
        defaults={"max_epochs": setup.max_epochs},
        probes=probes,
    )


def not_yet_tried(
    setup: SearchSetup, history: Iterable[TrialRecord]
) -> deque[tuple[str, Mapping[str, Any], bool]]:
    """(name, configuration, is it a recipe) of recipes and warm starts that the study lacks, in order."""
    tried = {record.attrs.get("recipe") for record in history}
    given = [(*one, True) for one in setup.recipes] + [(*one, False) for one in setup.warm_starts]
    return deque(one for one in given if one[0] not in tried)
