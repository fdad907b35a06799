"""Resources: how many trials fit, and what is refused before Ray starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cluster import resources
from cluster.resources import check_resources, count_cpus, count_gpus
from cluster.study import StudyConfig


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
        ({"cpus_per_trial": 0.5}, 2, 0, 4),
        ({"cpus_per_trial": 1.5}, 4, 0, 2),
        ({"concurrent": 1}, 8, 0, 1),
        ({"trials": 3}, 8, 0, 3),
        ({"workers_per_trial": 2}, 5, 0, 2),
        ({"workers_per_trial": 2}, 2, 0, 1),
        ({"workers_per_trial": 4}, 16, 4, 1),
        ({"concurrent": 5}, math.inf, math.inf, 5),
        ({}, math.inf, math.inf, 1),
    ],
)
def test_as_many_trials_run_at_once_as_fit(
    flags: dict[str, Any], cpus: float, gpus: float, slots: int
) -> None:
    assert check_resources(config(**flags), cpus=cpus, gpus=gpus).slots == slots


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
        check_resources(config(**flags), cpus=2, gpus=0)


@pytest.mark.parametrize(("visible", "num"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("1,-1,2", 1)])
def test_visible_gpus_are_counted(monkeypatch: pytest.MonkeyPatch, visible: str, num: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert count_gpus() == num


def test_a_containers_quota_limits_the_cpus(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    unlimited = tmp_path / "unlimited"
    unlimited.mkdir()
    (unlimited / "cpu.max").write_text("max 100000\n")

    assert resources._container_quota(tmp_path) == 1.5
    assert resources._container_quota(unlimited) is None
    assert count_cpus() >= 1


def test_the_leader_of_several_workers_reserves_a_share_of_a_core() -> None:
    alone = check_resources(config(gpus_per_trial=0.5), cpus=4, gpus=1)
    led = check_resources(config(workers_per_trial=2, cpus_per_trial=2), cpus=5, gpus=0)

    assert alone.of_tune_trial == {"CPU": 1.0, "GPU": 0.5}
    assert led.of_tune_trial == {"CPU": 0.1}
    assert led.threads == 2


@pytest.mark.parametrize(
    ("flags", "nodes", "slots"),
    [
        ({}, [(2, 0), (1, 0)], 3),
        ({"cpus_per_trial": 2}, [(3, 0), (3, 0)], 2),
        ({}, [(0, 0), (8, 2), (8, 2)], 4),
        ({"gpus_per_trial": 0.4}, [(8, 1), (8, 1)], 4),
        ({"gpus_per_trial": 2}, [(8, 1), (8, 1), (8, 2)], 1),
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
