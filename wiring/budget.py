"""Plans a search for a time budget: trials, epochs, image size, backbones; the answer stands in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cluster.search.time_left import MOST_AHEAD
from contract.process_clock import process_started
from contract.study_layout import StudyPaths
from trainables.timing.trial_seconds import Course, TrialSeconds, simulate, trial_seconds
from wiring.duration import (
    STOPPED_SHARE,
    Stopwatch,
    describe_duration,
    describe_span,
    expected_duration,
)
from wiring.plan import Plan, with_choices

CALIBRATION_SHARE = 0.02
"""Share of the time budget that timing passes may take, beside importing torch; at most MOST_CALIBRATION."""
MOST_CALIBRATION = 6.0
SAFETY = 1.2
"""Trials are planned to take so many times what was measured."""
MOST_TRIALS = 1000
"""Most trials that are planned; the time ends the search, not their number."""
TOO_LONG, ADVISED = 3600.0, 1800.0
"""Seconds of a search from which on a shorter one is advised, and those of the advised one."""
CLOSING_SAFETY = 1.25
"""The closing phase is given so many times what it is expected to take."""
PART_OF_SIZE = (1.0, 0.75, 0.5, 0.375, 0.25)
PART_OF_EPOCHS = (1.0, 0.75, 0.5, 1 / 3, 1 / 6, 1 / 12, 1 / 24)
STEP, SMALLEST, FEWEST_EPOCHS = 32, 64, 2
"""Image sizes are multiples of STEP from SMALLEST on; a schedule has at least FEWEST_EPOCHS."""

PER_SIZE, PER_EPOCHS, PER_TRIALS, PER_FIRST_TRIALS, PER_BACKBONES = 8.0, 1.0, 1.0, 3.0, 0.5
"""What a doubling of each is worth to the plan. On photos smaller images cost points of accuracy, where half
the epochs or trials cost tenths."""
RECIPES_WORTH = 2.0
"""What it is worth that every recipe can end."""
FEW_TRIALS, ENOUGH_TRIALS = 6, 32
"""Trials up to which each counts for more, and from which on more are worth nothing to the plan."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The moments of one command, in unix time."""

    began: float
    """The process's start."""

    ends: float
    """The end of the time budget."""

    search_begins: float
    search_ends: float

    @property
    def search_seconds(self) -> float:
        return max(0.0, self.search_ends - self.search_begins)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to search, and how it would go."""

    plan: Plan
    course: Course
    trials: tuple[TrialSeconds, ...]
    worth: float


def plan_time(plan: Plan, *, watch: Stopwatch | None = None) -> tuple[Plan, list[str]]:
    """Say how long the search will take, or plan it for its time budget; the plan, and lines to show.

    Backbones that were never timed here are timed for a dry run and for a time budget only, since it takes
    seconds.

    Raises:
        ValueError: not even one trial of a new study can end within the time budget.
    """
    watch = watch or Stopwatch(plan)
    if plan.config.time_budget is not None:
        is_new = not StudyPaths(plan.config.directory).facts.exists()
        return plan_for_budget(plan, is_new=is_new, watch=watch)
    if plan.config.dry_run:
        watch.calibrate(plan, seconds=MOST_CALIBRATION)
    duration = expected_duration(plan, watch)
    lines = [describe_duration(plan, duration)]
    if math.sqrt(duration.low * duration.high) > TOO_LONG and plan.resources.gpus_per_worker == 0:
        lines += _advise(plan, watch)
    return plan, lines


def _advise(plan: Plan, watch: Stopwatch) -> list[str]:
    """Say which flags make minutes of hours."""
    clock = Clock(began=0.0, ends=ADVISED, search_begins=0.0, search_ends=ADVISED)
    best = _choose(plan, watch, clock, is_new=True)
    if not best.course.num_complete:
        quickest = SAFETY * watch.load * _quickest(best.trials)
        return [
            f"time: even at {best.plan.image_size} px and {best.plan.max_epochs} epochs a trial takes "
            f"{describe_span(quickest, 1.5 * quickest)}; --backbones lite0 or --space demo make it minutes"
        ]
    chosen, flags = best.plan, []
    if chosen.image_size != plan.image_size:
        flags.append(f"--image-size {chosen.image_size}")
    if chosen.max_epochs != plan.max_epochs:
        flags.append(f"--max-epochs {chosen.max_epochs}")
    if chosen.backbone_names != plan.backbone_names:
        flags.append(f"--backbones {' '.join(chosen.backbone_names)}")
    if best.course.num_complete < plan.num_trials:
        flags.append(f"--trials {best.course.num_complete}")
    return [f"time: --time-budget {_as_flag(ADVISED)} makes minutes of it, as would {' '.join(flags)}"]


def plan_for_budget(
    plan: Plan,
    *,
    is_new: bool,
    began: float | None = None,
    now: Callable[[], float] = time.time,
    watch: Stopwatch | None = None,
) -> tuple[Plan, list[str]]:
    """Plan what the flags leave open so that all ends in time; the plan, and lines that show it.

    Args:
        is_new: the study has no trials yet; else its image size, epochs and backbones are what they are.
        began: unix time from which the time budget counts; None = the start of this process.
        watch: what is known of the speed here; None = what earlier commands measured.

    Raises:
        ValueError: not even one trial of a new study can end in time.
    """
    budget = plan.config.time_budget_seconds
    if budget is None:
        return plan, []
    began = process_started() if began is None else began
    watch = watch or Stopwatch(plan)
    hopeful = Stopwatch(plan, load=1.0, hopeful=True)
    if is_new:
        _check_time(plan, hopeful, budget=budget)
        watch.calibrate(plan, seconds=min(MOST_CALIBRATION, CALIBRATION_SHARE * budget))
    clock = _make_clock(plan, watch, began=began, budget=budget, now=now())
    if not is_new and not clock.search_seconds:
        over = clock.search_ends
        return replace(plan, search_ends_at=over, time_ends_at=over), [_no_time_line(plan)]
    best, lines = _choose(plan, watch, clock, is_new=is_new), []
    if is_new and not best.course.num_complete:
        watch = Stopwatch(plan, load=1.0, hopeful=True)
        clock = _make_clock(plan, watch, began=began, budget=budget, now=now())
        best = _choose(plan, watch, clock, is_new=is_new)
        if not best.course.num_complete:
            raise ValueError(_refusal(plan, best, watch, clock))
        lines = ["plan: this machine is busy with other work; planned as if it were not, it may get late"]
    chosen = _with_trials(best, plan, clock, watch, is_new=is_new)
    chosen = replace(
        chosen,
        search_ends_at=clock.search_ends,
        time_ends_at=clock.ends,
        expected_seconds=_expectation(chosen, watch),
    )
    return chosen, [*_describe(plan, chosen, best, clock), *lines]


def _choose(plan: Plan, watch: Stopwatch, clock: Clock, *, is_new: bool) -> Choice:
    """The most worthy of the plans that keep to the flags."""
    choices = [_rate(one, watch, clock) for one in _options(plan, is_new=is_new)]
    return max(choices, key=lambda choice: choice.worth)


def _check_time(plan: Plan, watch: Stopwatch, *, budget: float) -> None:
    """Refuse a budget that is over before the first trial could begin, without timing anything."""
    around = watch.start_seconds() + watch.closing_seconds(plan)
    if budget < around:
        raise ValueError(
            f"--time-budget {plan.config.time_budget}: starting up, choosing, exporting and reporting take "
            f"about {around:.0f} s here: give it at least {_as_flag(2 * around)}"
        )


def _make_clock(plan: Plan, watch: Stopwatch, *, began: float, budget: float, now: float) -> Clock:
    closing = CLOSING_SAFETY * watch.closing_seconds(plan)
    begins = max(now, began + watch.start_seconds())
    return Clock(began=began, ends=began + budget, search_begins=begins, search_ends=began + budget - closing)


def _options(plan: Plan, *, is_new: bool) -> Iterator[Plan]:
    """Every plan that keeps to the flags which were given, the plan as it is first."""
    asked = plan.asked
    if not is_new:
        yield plan
        return
    backbones = [()] if asked.backbones else _fewer_backbones(plan)
    epochs = [plan.max_epochs] if asked.max_epochs else _parts(plan.max_epochs, PART_OF_EPOCHS, FEWEST_EPOCHS)
    sizes = [plan.image_size] if asked.image_size else _smaller_sizes(plan)
    for names in backbones:
        for number in epochs:
            chosen = {"max_epochs": number} | ({"backbones": names} if names else {})
            try:
                changed = with_choices(plan, **chosen)
                for size in sizes:
                    yield with_choices(changed, image_size=size)
            except ValueError:  # too small for a backbone, or recipes that need other epochs
                continue


def _rate(plan: Plan, watch: Stopwatch, clock: Clock) -> Choice:
    trials = watch.trials(plan, image_size=plan.image_size, number=plan.config.trials or 4 * ENOUGH_TRIALS)
    course = _course(plan, trials, limit=clock.search_seconds / (SAFETY * watch.load))
    recipes = _course(plan, trials[: len(plan.recipes)], limit=clock.search_seconds / (SAFETY * watch.load))
    worth = (
        PER_SIZE * math.log2(plan.image_size)
        + PER_EPOCHS * math.log2(plan.max_epochs)
        + PER_BACKBONES * math.log2(len(plan.backbones))
        + PER_FIRST_TRIALS * math.log2(min(max(1, course.num_complete), FEW_TRIALS))
        + PER_TRIALS * math.log2(min(max(FEW_TRIALS, course.num_complete), ENOUGH_TRIALS))
        + RECIPES_WORTH * recipes.num_complete / max(1, len(plan.recipes))
    )
    if not course.num_complete:
        worth = -_quickest(trials)
    return Choice(plan=plan, course=course, trials=tuple(trials), worth=worth)


def _quickest(trials: Sequence[TrialSeconds]) -> float:
    """Seconds of the shortest trial, alone."""
    return min((trial.alone for trial in trials), default=math.inf)


def _course(
    plan: Plan,
    trials: list[TrialSeconds],
    *,
    limit: float,
    share: float = 1.0,
    most_waiting: int | None = MOST_AHEAD,
) -> Course:
    num_recipes = len(plan.recipes) if plan.config.scheduler != "none" else len(trials)
    return simulate(
        trials,
        slots=plan.resources.slots or 1,
        limit=limit,
        most_waiting=most_waiting,
        share_of=lambda position: share if position >= num_recipes else 1.0,
    )


def _with_trials(choice: Choice, plan: Plan, clock: Clock, watch: Stopwatch, *, is_new: bool) -> Plan:
    """The chosen plan with as many trials as may end, were they stopped early; their number as recorded."""
    chosen = choice.plan
    names = [
        name for name in ("image_size", "max_epochs", "backbones") if is_new and not getattr(plan.asked, name)
    ]
    values: dict[str, Any] = {
        "image_size": chosen.image_size,
        "max_epochs": chosen.max_epochs,
        "backbones": chosen.backbone_names,
    }
    planned = dict(plan.planned) | {name: values[name] for name in names}
    if plan.asked.trials and "trials" not in plan.planned:
        return replace(with_choices(chosen, **{name: values[name] for name in names}), planned=planned)
    trials = watch.trials(chosen, image_size=chosen.image_size, number=MOST_TRIALS)
    # As if the machine did nothing else from now on.
    most = _course(chosen, trials, limit=clock.search_seconds, share=STOPPED_SHARE, most_waiting=None)
    number = max(most.num_complete, len(chosen.recipes), 1)
    planned["trials"] = number if is_new else plan.num_trials + number
    return replace(
        with_choices(chosen, trials=planned["trials"], **{name: values[name] for name in names}),
        planned=planned,
    )


def _expectation(plan: Plan, watch: Stopwatch) -> Callable[[Mapping[str, Any]], float]:
    return partial(
        _expected_seconds,
        paces=watch.paces(plan, image_size=plan.image_size),
        load=watch.load,
        num_train=plan.num_images("train"),
        num_val=plan.num_images("val"),
        num_synthetic=plan.num_synthetic,
    )


def _expected_seconds(
    config: Mapping[str, Any], *, paces: Mapping[str, Any], load: float, **counts: int
) -> float:
    """Worker seconds of a whole trial; of the passes over images half, since other trials' may serve."""
    pace = paces.get(config["backbone"])
    if pace is None:
        return 0.0
    found = trial_seconds(config, pace, **counts)
    return load * (found.own + 0.5 * sum(found.passes.values()))


def _fewer_backbones(plan: Plan) -> list[tuple[str, ...]]:
    names = plan.backbone_names
    counts = dict.fromkeys((len(names), (len(names) + 1) // 2, 1))
    return [names[:count] for count in counts]


def _smaller_sizes(plan: Plan) -> list[int]:
    step = max([STEP, *(backbone.patch for backbone in plan.backbones if backbone.patch > 1)])
    least = max([SMALLEST, *(backbone.smallest for backbone in plan.backbones)])
    smaller = [int(part * plan.image_size) // step * step for part in PART_OF_SIZE[1:]]
    return [plan.image_size, *dict.fromkeys(size for size in smaller if least <= size < plan.image_size)]


def _parts(whole: int, parts: tuple[float, ...], least: int) -> list[int]:
    return list(dict.fromkeys(max(min(whole, least), round(part * whole)) for part in parts))


def _describe(plan: Plan, chosen: Plan, choice: Choice, clock: Clock) -> list[str]:
    """Show the plan: what was chosen, what it was before, and how the time is divided."""
    changes = [
        f"{title} {now}" + (f" (instead of {before})" if now != before else "")
        for title, before, now in (
            ("images of", f"{plan.image_size} px", f"{chosen.image_size} px"),
            ("trials of up to", f"{plan.max_epochs} epochs", f"{chosen.max_epochs} epochs"),
            ("backbones", ", ".join(plan.backbone_names), ", ".join(chosen.backbone_names)),
        )
    ]
    start, closing = clock.search_begins - clock.began, clock.ends - clock.search_ends
    return [
        f"plan for --time-budget {plan.config.time_budget}: {'; '.join(changes)}",
        f"plan: {chosen.num_trials} trials, of which about {choice.course.num_complete} can run to the end; "
        f"scheduler {chosen.config.scheduler}, searcher {chosen.config.searcher}",
        f"plan: {start:.0f} s to start, {clock.search_seconds:.0f} s to search, {closing:.0f} s kept for the "
        "answer, its export and the report",
    ]


def _refusal(plan: Plan, best: Choice, watch: Stopwatch, clock: Clock) -> str:
    needed = SAFETY * watch.load * _quickest(best.trials)
    around = (clock.search_begins - clock.began) + (clock.ends - clock.search_ends)
    chosen, config = best.plan, plan.config
    return (
        f"--time-budget {config.time_budget} is too short for --space {config.space} on these images: its "
        f"quickest trial takes about {needed:.0f} s with {', '.join(chosen.backbone_names)} at "
        f"{chosen.image_size} px and {chosen.max_epochs} epochs, start and export {around:.0f} s: give it "
        f"{_as_flag(1.3 * (needed + around))}, or pass another --space, smaller --backbones or fewer images"
    )


def _no_time_line(plan: Plan) -> str:
    return f"--time-budget {plan.config.time_budget} leaves no time to search: the results are made at once"


def _as_flag(seconds: float) -> str:
    """A duration as the flag takes it, rounded up: 45s, 3m, 2h."""
    if seconds < 60:
        return f"{10 * math.ceil(seconds / 10)}s"
    return f"{math.ceil(seconds / 60)}m" if seconds < 5400 else f"{math.ceil(seconds / 3600)}h"
