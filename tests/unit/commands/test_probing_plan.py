"""Which studies have probes: as many as were asked for, where a lone worker has pretrained features."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from cluster.search.search import Search
from cluster.study.config import StudyConfig
from cluster.study.records import Records
from tests.tiny_data import write_images
from wiring.plan import make_plan, print_plan
from wiring.search import describe_probing, make_search

MANIFEST = SimpleNamespace(
    labels=np.arange(36) % 3, groups=np.arange(36), classes=("a", "b", "c"), indices=lambda _: np.arange(24)
)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    url = f"sqlite:///{tmp_path}/study.db"
    opened = Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=True)
    yield opened
    opened.close()


def config(folder: Path, **flags: Any) -> StudyConfig:
    images = folder / "images"
    if not images.exists():
        write_images(images)
    places = {"runs_dir": folder / "runs", "cache_dir": folder / "cache", "data": str(images)}
    return StudyConfig(**{"space": "demo", "image_size": 32, "probes": 8} | places | flags)


def plan_search(folder: Path, records: Records, **flags: Any) -> tuple[Search, str]:
    plan = make_plan(config(folder, **flags))
    study = cast(
        Any, SimpleNamespace(records=records, info={"warm_start": [], "num_probes": plan.num_probes})
    )
    search = make_search(plan, study, cast(Any, MANIFEST))
    return search, describe_probing(study, search)


def test_packaged_backbones_have_as_many_probes_as_were_asked_for(tmp_path: Path, records: Records) -> None:
    search, line = plan_search(tmp_path, records)

    assert search.probes.total == 8
    assert line == "probes: up to 8 frozen heads are judged before anything is proposed (0 done)"
    assert {leased.config["regime"] for leased in search.probes.lease()} == {"finetune"}


@pytest.mark.parametrize(
    "flags",
    [
        {"weights": "random"},
        {"space": "handcrafted", "image_size": 64},
        {"workers_per_trial": 2, "concurrent": 1},
    ],
)
def test_without_pretrained_weights_or_with_several_workers_there_are_none_and_the_line_says_so(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    monkeypatch.setattr("wiring.plan.count_cpus", lambda: 2)

    search, line = plan_search(tmp_path, records, **flags)

    assert search.probes.total == 0
    assert line.startswith("probes: none, since no head of the space")


def test_a_study_that_asks_for_none_says_nothing(tmp_path: Path, records: Records) -> None:
    search, line = plan_search(tmp_path, records, probes=0)

    assert (search.probes.total, line) == (0, "")


def test_a_dry_run_says_how_many_there_would_be(tmp_path: Path) -> None:
    out = StringIO()

    print_plan(make_plan(config(tmp_path)), Console(file=out, width=200))

    assert "probes: 8 frozen heads at most, before anything is proposed" in out.getvalue()
