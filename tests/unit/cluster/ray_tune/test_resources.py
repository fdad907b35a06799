"""Resources: how many trials fit, and what is refused before Ray starts."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.ray_tune.resources import check_resources, unasked_resources
from cluster.study.config import StudyConfig


def config(**flags: Any) -> StudyConfig:
    return StudyConfig(space="demo", data="digits", **flags)


@pytest.mark.parametrize(
    ("flags", "cpus", "gpus", "slots"),
    [
        ({}, 2, 0, 2),
        ({}, 16, 2, 2),
        ({"gpus_per_trial": 0.5}, 16, 2, 4),
        ({"gpus_per_trial": 0.4}, 16, 2, 4),
        ({"gpus_per_trial": 0}, 3, 2, 3),
        ({"gpus_per_trial": 2}, 16, 5, 2),
        ({"gpus_per_trial": 4, "workers_per_trial": 4}, 16, 8, 2),
        ({"gpus_per_trial": 0, "workers_per_trial": 2}, 4, 8, 2),
        ({"cpus_per_trial": 0.5}, 2, 0, 4),
        ({"cpus_per_trial": 1.5}, 4, 0, 2),
        ({"concurrent": 1}, 8, 0, 1),
        ({"trials": 3}, 8, 0, 3),
        ({"workers_per_trial": 2}, 5, 0, 2),
        ({"workers_per_trial": 2}, 2, 0, 1),
        ({"workers_per_trial": 4}, 16, 4, 1),
    ],
)
def test_as_many_trials_run_at_once_as_fit(
    flags: dict[str, Any], cpus: float, gpus: float, slots: int
) -> None:
    assert check_resources(config(**flags), nodes=[(cpus, gpus)]).slots == slots


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"gpus_per_trial": 1}, "a trial needs 1 GPUs, but there are 0: lower --gpus-per-trial"),
        ({"cpus_per_trial": 3}, "a trial needs 3 CPUs, but there are 2: lower --cpus-per-trial"),
        ({"workers_per_trial": 3}, r"a trial needs 3 CPUs \(3 workers x 1\), but there are 2"),
    ],
)
def test_what_fits_nowhere_is_refused_in_one_line(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_resources(config(**flags), nodes=[(2, 0)])


@pytest.mark.parametrize(
    ("flags", "workers", "each"),
    [
        ({"gpus_per_trial": 0.5}, 1, 0.5),
        ({"gpus_per_trial": 1}, 1, 1.0),
        ({"gpus_per_trial": 2}, 2, 1.0),
        ({"gpus_per_trial": 4, "workers_per_trial": 4}, 4, 1.0),
        ({"gpus_per_trial": 0, "workers_per_trial": 4}, 4, 0.0),
        ({"workers_per_trial": 4}, 4, 1.0),
    ],
)
def test_the_gpus_of_a_trial_are_shared_out_among_its_workers(
    flags: dict[str, Any], workers: int, each: float
) -> None:
    needs = check_resources(config(**flags), nodes=[(16, 8)])

    assert (needs.workers_per_trial, needs.gpus_per_worker) == (workers, each)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"gpus_per_trial": 0.5, "workers_per_trial": 2}, "0.5 is less than one GPU for each of 2 workers"),
        ({"gpus_per_trial": 1, "workers_per_trial": 4}, "1 is less than one GPU for each of 4 workers"),
        ({"gpus_per_trial": 3, "workers_per_trial": 4}, "pass --gpus-per-trial 4, or fewer"),
        ({"gpus_per_trial": 2, "workers_per_trial": 1}, "2 is more than --workers-per-trial 1 can use"),
        ({"gpus_per_trial": 4, "workers_per_trial": 2}, "leave --workers-per-trial out"),
    ],
)
def test_gpus_that_workers_would_have_to_share_or_leave_idle_are_refused(
    flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**flags)


def test_what_a_cluster_has_that_nobody_asked_is_unknown() -> None:
    unknown = unasked_resources(config(address="10.0.0.1:6379"))

    assert unknown.gpus_per_worker is None
    assert unknown.slots is None
    assert unasked_resources(config(gpus_per_trial=2)).gpus_per_worker == 1


def test_the_leader_of_several_workers_reserves_next_to_nothing() -> None:
    alone = check_resources(config(gpus_per_trial=0.5), nodes=[(4, 1)])
    led = check_resources(config(workers_per_trial=2, cpus_per_trial=2), nodes=[(5, 0)])

    assert alone.of_tune_trial == {"CPU": 1.0, "GPU": 0.5}
    assert led.of_tune_trial == {"CPU": 0.001}
    assert led.threads == 2


@pytest.mark.parametrize(
    ("flags", "nodes", "slots"),
    [
        ({}, [(2, 0), (1, 0)], 3),
        ({"cpus_per_trial": 2}, [(3, 0), (3, 0)], 2),
        ({}, [(0, 0), (8, 2), (8, 2)], 4),
        ({"gpus_per_trial": 0.4}, [(8, 1), (8, 1)], 4),
        ({"gpus_per_trial": 2}, [(8, 1), (8, 1), (8, 2)], 2),
        ({"gpus_per_trial": 2}, [(1, 4), (8, 1), (8, 0)], 1),
        ({"workers_per_trial": 2}, [(1, 0), (1, 0), (1, 0)], 1),
        ({"concurrent": 2}, [(8, 0), (8, 0)], 2),
    ],
)
def test_a_trial_has_to_fit_on_one_node_of_a_cluster_unless_it_has_several_workers(
    flags: dict[str, Any], nodes: list[tuple[float, float]], slots: int
) -> None:
    assert check_resources(config(**flags), nodes=nodes).slots == slots


def test_a_trial_that_no_node_can_take_is_refused_unless_nodes_may_come() -> None:
    large = config(cpus_per_trial=4, concurrent=8)

    with pytest.raises(ValueError, match="needs 4 CPUs, but the largest of 2 nodes has 3: lower"):
        check_resources(large, nodes=[(3, 0), (2, 0)])
    assert check_resources(large, nodes=[(3, 0), (2, 0)], can_grow=True).slots == 1
