"""Says about how long a search takes on this machine, before anything runs, from what was measured on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.machine import measure_load
from trainables.timing.calibration import Request, calibrate
from trainables.timing.memory import Pass, SpeedMemory
from trainables.timing.pace import ASSUMED, MEASURED, OTHER_BACKBONE, OTHER_SIZE, Pace, find_pace
from trainables.timing.trial_seconds import VALIDATING, Course, TrialSeconds, simulate, trial_seconds
from wiring.plan import Plan

if TYPE_CHECKING:
    from cluster.search.search import Search
    from cluster.search.trial_status import TrialStatus

START, CLOSING = "start", "closing"
"""Names of the two figures in a SpeedMemory that belong to no backbone."""
START_SECONDS, CLOSING_SECONDS = 10.0, 15.0
"""From the command to the first lease, and from the search's end to the prompt, where none was measured: on a
machine that does nothing else."""
LEAST_START, LEAST_CLOSING = 15.0, 25.0
"""What is assumed at least where none was measured."""
CLOSING_IMAGES = 200
"""Images that the slowest backbone sees, about, while the answer is exported and checked."""
HIGHEST_LOAD = 4.0
"""Load that a plan reckons with at most, since it changes; the search goes by what it then measures."""
STOPPED_SHARE = 0.4
"""Least share of their schedules that trials run on average where bad ones are stopped or paused."""
MOST_LOAD = 1.25
"""Load up to which a machine counts as having nothing else to do."""
MOST_DEPTHS = 3
"""Unfreeze depths that are timed; what the others take follows from these."""

_BASIS = {
    MEASURED: "measured here",
    OTHER_SIZE: "measured here at another image size",
    OTHER_BACKBONE: "concluded from other backbones measured here",
    ASSUMED: "assumed: no backbone was timed on this machine yet, --dry-run does it",
}


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Seconds of a whole command, at least and at most."""

    low: float
    high: float
    spread: float
    """Factor by which the pace that it follows from may be wrong."""

    @property
    def basis(self) -> str:
        return _BASIS[self.spread]


class Stopwatch:
    """What is known of a plan's speed: paces of its backbones, and the machine's load."""

    def __init__(self, plan: Plan, *, load: float | None = None, hopeful: bool = False) -> None:
        """Read what earlier commands measured.

        Args:
            load: as by `measure_load`; None = measure it.
            hopeful: start and closing take what they took at least, not what they usually took.
        """
        self._hopeful = hopeful
        assert plan.config.cache_dir is not None
        self.memory = SpeedMemory(Path(plan.config.cache_dir))
        self.device = "gpu" if plan.resources.gpus_per_worker else "cpu"
        self.threads = plan.resources.threads
        self.load = min(HIGHEST_LOAD, measure_load() if load is None else load)

    @property
    def phase_load(self) -> float:
        """How many times as long start and closing take: less than passes, since they wait for much else."""
        return math.sqrt(self.load)

    def calibrate(self, plan: Plan, *, seconds: float) -> None:
        """Time those backbones that were never timed here at any size: `seconds`, and torch's import."""
        new = [b.name for b in plan.backbones if not self._knows(b.name)]
        if not new:
            return
        request = Request(
            backbones=tuple(new),
            image_size=plan.image_size,
            depths=_most_telling(plan.expected_reuse.depths),
            device=self.device,
            threads=self.threads,
            seconds=seconds,
        )
        answer = calibrate(request)
        self.memory.note(answer.seconds, keeps=not plan.config.dry_run)
        self.load = min(HIGHEST_LOAD, max(self.load, answer.load))

    def paces(self, plan: Plan, *, image_size: int) -> dict[str, Pace]:
        return {
            backbone.name: find_pace(
                backbone,
                image_size=image_size,
                device=self.device,
                threads=self.threads,
                memory=self.memory,
            )
            for backbone in plan.backbones
        }

    def trials(self, plan: Plan, *, image_size: int, number: int) -> list[TrialSeconds]:
        """What the first trials of the plan take: its recipes, then configurations drawn at random."""
        paces = self.paces(plan, image_size=image_size)
        counts = {"num_train": plan.num_images("train"), "num_val": plan.num_images("val")}
        counts["num_synthetic"] = plan.num_synthetic
        return [
            trial_seconds(config, paces.get(config["backbone"]) or next(iter(paces.values())), **counts)
            for config in _first_configs(plan, number)
        ]

    def start_seconds(self) -> float:
        """Seconds from the command's start to its first lease."""
        known = self._remembered(START)
        return known * self.phase_load if known else max(LEAST_START, START_SECONDS * self.phase_load)

    def closing_seconds(self, plan: Plan) -> float:
        """Seconds from the search's end to the prompt: answer, export, report, MLflow."""
        name = f"{CLOSING} {plan.backbones[0].name}"
        known = self._remembered(name) or self._remembered(CLOSING)
        if known:
            return known * self.phase_load
        slowest = max(pace.forward for pace in self.paces(plan, image_size=plan.image_size).values())
        return max(LEAST_CLOSING, (CLOSING_SECONDS + CLOSING_IMAGES * slowest) * self.phase_load)

    def _remembered(self, name: str) -> float | None:
        return self.memory.least_seconds(name) if self._hopeful else self.memory.seconds(name)

    def _knows(self, name: str) -> bool:
        return bool(self.memory.passes(backbone=name, device=self.device, threads=self.threads))


def expected_duration(plan: Plan, watch: Stopwatch) -> Duration:
    """Estimate the whole command: start, search and closing."""
    trials = watch.trials(plan, image_size=plan.image_size, number=plan.num_trials)
    spread = max(pace.spread for pace in watch.paces(plan, image_size=plan.image_size).values())
    least, most = (_course(plan, trials, share=share).seconds for share in (STOPPED_SHARE, 1.0))
    around = watch.start_seconds() + watch.closing_seconds(plan)
    return Duration(
        low=0.8 * around + least / spread,
        high=1.25 * around + most * spread * watch.load,
        spread=spread,
    )


def _course(plan: Plan, trials: Sequence[TrialSeconds], *, share: float) -> Course:
    num_recipes = len(plan.recipes)
    stops = plan.config.scheduler != "none"

    def share_of(position: int) -> float:
        return share if stops and position >= num_recipes else 1.0

    return simulate(trials, slots=plan.resources.slots or 1, share_of=share_of)


def describe_duration(plan: Plan, duration: Duration) -> str:
    """Say in one line how long the search takes, and what that follows from."""
    names = ", ".join(plan.backbone_names[:3]) + (" and others" if len(plan.backbones) > 3 else "")
    where = "on this machine" if plan.config.address is None else "if its nodes are like this machine"
    return (
        f"time: {describe_span(duration.low, duration.high)} {where}, {plan.resources.describe()} "
        f"({names} at {plan.image_size} px: {duration.basis})"
    )


def describe_span(low: float, high: float) -> str:
    """Say a span of seconds as a person would: about 3 to 6 minutes."""
    if low >= 86400.0:
        return f"{_rounded(low / 86400.0)} days or more"
    for unit, seconds in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if high >= 2 * seconds:
            first, last = _rounded(low / seconds), _rounded(high / seconds)
            return f"about {last} {unit}" if first == last else f"about {first} to {last} {unit}"
    first, last = (f"{max(5, 5 * round(value / 5))}" for value in (low, high))
    return f"about {last} seconds" if first == last else f"about {first} to {last} seconds"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 2.75 else f"{max(0.5, round(2 * value) / 2):g}"


def _most_telling(depths: Sequence[int | str]) -> tuple[int | str, ...]:
    """The deepest, the middle and the shallowest of the depths that train something, the deepest first."""
    ordered = sorted(depths, key=lambda depth: depth if isinstance(depth, int) else 99)
    deep = [depth for depth in reversed(ordered) if depth != 0] or [0]
    return tuple(dict.fromkeys((deep[0], deep[len(deep) // 2], deep[-1])))[:MOST_DEPTHS]


def _first_configs(plan: Plan, number: int) -> list[Mapping[str, Any]]:
    base = plan.samples[0] if plan.samples else {}
    given = [{**base, **recipe.config, "max_epochs": plan.max_epochs} for recipe in plan.recipes if base]
    drawn = plan.samples or [{}]
    return [*given, *(drawn[at % len(drawn)] for at in range(max(0, number - len(given))))][:number]


def remember_run(plan: Plan, search: Search, *, began: float, search_ended: float, now: float) -> None:
    """Remember what this run took, for the plans and estimates of later ones; all moments in unix time.

    On a machine that did other work, epochs are not remembered, and other figures are divided by its load.
    """
    watch = Stopwatch(plan)
    started = [trial.started for trial in search.trials.values() if trial.started >= began]
    if not started or plan.config.address is not None:
        return
    closing = (now - search_ended) / watch.phase_load
    measured = [
        (START, (min(started) - began) / watch.phase_load),
        (CLOSING, closing),
        (f"{CLOSING} {plan.backbones[0].name}", closing),
    ]
    if watch.load < MOST_LOAD:
        measured += _measured_passes(plan, watch, [t for t in search.trials.values() if t.started >= began])
    watch.memory.note(measured)


def _measured_passes(
    plan: Plan, watch: Stopwatch, trials: Sequence[TrialStatus]
) -> Iterator[tuple[str, float]]:
    """Seconds per image of epochs that found their activations in the cache, of trials that ran alone."""
    images = plan.num_images("train") + VALIDATING * plan.num_images("val")
    for trial in trials:
        config, ends = trial.config, [trial.started, *sorted(trial.arrivals.values())]
        epochs = [after - before for before, after in itertools.pairwise(ends)][1:]
        is_whole = not any(
            config[name] for name in ("steps_per_epoch", "validation_images", "synthetic_share")
        )
        if trial.lease_number is not None or not epochs or config["regime"] != "finetune" or not is_whole:
            continue
        one = Pass(
            backbone=config["backbone"],
            image_size=plan.image_size,
            depth=config["unfreeze_depth"],
            device=watch.device,
            threads=watch.threads,
        )
        yield one.key, min(epochs) / images
