"""A time budget is planned from measured speed, with a stated clock; flags that are given stay."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.study.config import StudyConfig
from contract.machine import measure_load
from tests.tiny_data import write_images
from trainables.timing.memory import Pass, SpeedMemory
from wiring.budget import plan_for_budget, plan_time
from wiring.duration import CLOSING, START, Stopwatch, describe_span
from wiring.plan import Plan, make_plan

MINUTE = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos") / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache folder of a machine on which lite0 at 128 px, a start and a closing phase were timed."""
    passes = {None: 0.005, 4: 0.011, 2: 0.005, 1: 0.0015}
    keys = {
        Pass(backbone="lite0", image_size=128, depth=depth, device="cpu", threads=1).key: seconds
        for depth, seconds in passes.items()
    }
    SpeedMemory(tmp_path / "cache").note({**keys, START: 10.0, CLOSING: 12.0})
    return tmp_path / "cache"


def make(folder: Path, cache: Path, *, images: int = 3000, **flags: Any) -> Plan:
    """A plan of the demo space as if there were so many images, a fifth of them to validate."""
    config = StudyConfig(
        space="demo", data=str(folder), cache_dir=cache, runs_dir=cache.parent / "runs", **flags
    )
    plan = make_plan(config)
    splits = np.array(["val"] * (images // 5) + ["train"] * (images - images // 5))
    return replace(plan, splits=splits, resources=replace(plan.resources, slots=2))


def fit(plan: Plan, *, load: float = 1.0, is_new: bool = True, spent: float = 5.0) -> tuple[Plan, list[str]]:
    """Plan for the budget, `spent` seconds after the process began at moment 1000."""
    watch = Stopwatch(plan, load=load)
    return plan_for_budget(plan, is_new=is_new, began=1000.0, now=lambda: 1000.0 + spent, watch=watch)


def test_the_budget_counts_from_the_process_start_and_the_closing_phase_is_kept_back(
    folder: Path, cache: Path
) -> None:
    plan, lines = fit(make(folder, cache, time_budget="3m"))

    assert plan.search_ends_at == 1000.0 + 3 * MINUTE - 1.25 * 12.0
    assert re.search("10 s to start, 155 s to search, 15 s kept", " ".join(lines))


def test_with_less_time_trials_are_smaller_or_fewer(folder: Path, cache: Path) -> None:
    plans = [fit(make(folder, cache, images=9000, time_budget=budget))[0] for budget in ("80s", "5m", "40m")]

    sizes = [plan.image_size * plan.max_epochs for plan in plans]
    assert max(sizes[:-1]) < sizes[-1]
    assert plans[-1].num_trials >= max(plan.num_trials for plan in plans)
    assert (plans[-1].image_size, plans[-1].max_epochs) == (128, 4)


def test_many_trials_are_searched_by_the_scheduler_for_many(folder: Path, cache: Path) -> None:
    few = fit(make(folder, cache, images=300, time_budget="1m"))[0]
    many = fit(make(folder, cache, images=300, time_budget="2h"))[0]

    assert (few.config.scheduler, many.config.scheduler) == ("evidence", "asha")


def test_flags_that_are_given_stay_as_they_are(folder: Path, cache: Path) -> None:
    flags: dict[str, Any] = {"image_size": 96, "max_epochs": 3, "trials": 7, "scheduler": "none"}

    plan, _ = fit(make(folder, cache, time_budget="2m", **flags))

    assert {name: getattr(plan.config, name) for name in flags} == flags
    assert "trials" not in plan.planned and "image_size" not in plan.planned


def test_what_is_planned_is_recorded_as_planned(folder: Path, cache: Path) -> None:
    plan, _ = fit(make(folder, cache, time_budget="1m"))

    assert plan.planned == {
        "image_size": plan.image_size,
        "max_epochs": plan.max_epochs,
        "backbones": plan.backbone_names,
        "trials": plan.num_trials,
    }
    assert plan.config.image_size == plan.image_size and plan.config.trials == plan.num_trials


def test_a_busy_machine_gets_a_smaller_plan(folder: Path, cache: Path) -> None:
    idle, busy = (fit(make(folder, cache, time_budget="3m"), load=load)[0] for load in (1.0, 3.0))

    assert busy.search_ends_at < idle.search_ends_at
    assert busy.max_epochs * busy.image_size < idle.max_epochs * idle.image_size


def test_a_budget_that_cannot_hold_start_and_export_is_refused_before_anything_is_timed(
    folder: Path, cache: Path
) -> None:
    with pytest.raises(ValueError, match=r"--time-budget 10s: starting up.* about 22 s here: give it .* 50s"):
        fit(make(folder, cache, time_budget="10s"))


def test_a_budget_that_holds_no_trial_is_refused_with_what_one_takes(folder: Path, cache: Path) -> None:
    plan = make(folder, cache, images=200_000, time_budget="1m")

    with pytest.raises(ValueError, match=r"1m is too short for --space demo .* takes about .* give it \d+m"):
        fit(plan)


def test_a_study_that_goes_on_keeps_everything_but_its_number_of_trials(folder: Path, cache: Path) -> None:
    before = make(folder, cache, time_budget="1m")

    plan, _ = fit(before, is_new=False)

    assert (plan.image_size, plan.max_epochs) == (before.image_size, before.max_epochs)
    assert plan.num_trials > before.num_trials
    assert set(plan.planned) == {"trials"}


def test_a_second_is_enough_to_make_the_results_of_a_study_that_exists(folder: Path, cache: Path) -> None:
    plan, lines = fit(make(folder, cache, time_budget="1s"), is_new=False)

    assert plan.search_ends_at < 1000.0
    assert lines == ["--time-budget 1s leaves no time to search: the results are made at once"]


def test_expected_seconds_of_a_trial_follow_from_its_depth(folder: Path, cache: Path) -> None:
    plan, _ = fit(make(folder, cache, time_budget="3m"))
    shallow, deep = ({**plan.samples[0], "unfreeze_depth": depth} for depth in (0, 4))

    assert 0 < plan.expected_seconds(shallow) < plan.expected_seconds(deep)
    assert plan.expected_seconds({**deep, "backbone": "unknown"}) == 0


def test_every_search_says_how_long_it_takes_and_hours_come_with_advice(folder: Path, cache: Path) -> None:
    plans = [make(folder, cache, images=images) for images in (300, 100_000)]

    short, long = (plan_time(plan, watch=Stopwatch(plan, load=1.0))[1] for plan in plans)

    assert len(short) == 1 and re.match("time: about .* (minutes|seconds) on this machine", short[0])
    assert "hours" in long[0] and "--time-budget 30m" in long[1]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (20.0, 41.0, "about 20 to 40 seconds"),
        (45.0, 151.0, "about 1 to 2.5 minutes"),
        (180.0, 350.0, "about 3 to 6 minutes"),
        (4000.0, 15000.0, "about 1 to 4 hours"),
        (800000.0, 9000000.0, "9 days or more"),
    ],
)
def test_a_span_of_time_is_said_as_a_person_would(low: float, high: float, text: str) -> None:
    assert describe_span(low, high) == text


def test_an_idle_core_has_a_load_of_one_or_a_little_more() -> None:
    assert measure_load(0.01) >= 1.0
