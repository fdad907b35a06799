"""The plan refuses, before anything runs, what the workers of one trial could not share out."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.ray_tune.resources import check_workers
from cluster.study.config import StudyConfig
from tests.tiny_data import write_images
from wiring import plan as planning
from wiring.plan import make_plan, print_plan


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "count_cpus", lambda: 64)
    monkeypatch.setattr(planning, "count_gpus", lambda: 64)


def config(folder: Path, **flags: Any) -> StudyConfig:
    images = folder / "images"
    if not images.exists():
        write_images(images)
    places = {"runs_dir": folder / "runs", "cache_dir": folder / "cache", "data": str(images)}
    return StudyConfig(**{"space": "demo", "weights": "random", "image_size": 32} | places | flags)


def test_batch_sizes_that_the_workers_cannot_share_out_are_refused_with_those_that_fit(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ValueError, match=r"^--workers-per-trial 3: batch_size 16, 32, 64 of --space demo"
    ) as no:
        make_plan(config(tmp_path, workers_per_trial=3))

    assert str(no.value).endswith("does not divide by 3; pass one of 1, 2, 4, 8, 16")


def test_the_flag_that_made_the_workers_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--gpus-per-trial 3: batch_size 16, 32, 64 "):
        make_plan(config(tmp_path, gpus_per_trial=3))


def test_fewer_validation_images_than_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--workers-per-trial 8: there are only \d validation images"):
        make_plan(config(tmp_path, workers_per_trial=8))
    with pytest.raises(ValueError, match=r"^--workers-per-trial 2: there are only 1 validation images"):
        check_workers(StudyConfig(space="demo", workers_per_trial=2), num_val=1)


def test_workers_that_can_share_everything_out_are_no_mistake(tmp_path: Path) -> None:
    assert make_plan(config(tmp_path, gpus_per_trial=2)).resources.workers_per_trial == 2


def test_a_dry_run_says_of_a_cluster_that_nobody_asked_only_what_is_known(tmp_path: Path) -> None:
    out = StringIO()

    print_plan(make_plan(config(tmp_path, address="10.0.0.1:6379")), Console(file=out, width=200))

    assert (
        "as many at once as the cluster takes (not asked yet), each with 1 x (1 CPU, 1 GPU if there are any)"
        in (out.getvalue())
    )
