"""Which searcher, scheduler and probes a study gets that asks for none."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.study.config import StudyConfig
from cluster.study.search_choice import MOST_TRIALS, choose_probes, choose_search

OLD = {"searcher": "tpe", "scheduler": "asha"}


def chosen(num_trials: int = 12, before: dict[str, Any] | None = None, **flags: Any) -> tuple[str, str]:
    config = choose_search(StudyConfig(space="demo", **flags), num_trials=num_trials, before=before or {})
    assert config.searcher is not None
    assert config.scheduler is not None
    return config.searcher, config.scheduler


def test_a_small_study_searches_by_evidence_and_a_large_one_as_cheaply_as_can_be() -> None:
    assert chosen(MOST_TRIALS) == ("guided", "evidence")
    assert chosen(MOST_TRIALS + 1) == ("tpe", "asha")


@pytest.mark.parametrize("metric", ["val_loss", "images_per_second"])
def test_metrics_that_are_no_shares_keep_the_ranks(metric: str) -> None:
    assert chosen(metric=metric) == ("tpe", "asha")


def test_several_metrics_stop_nothing() -> None:
    assert chosen(metric="val_accuracy,parameters") == ("tpe", "none")


def test_a_flag_decides_and_the_searcher_follows_the_scheduler() -> None:
    assert chosen(scheduler="asha") == ("tpe", "asha")
    assert chosen(searcher="random") == ("random", "evidence")


def test_a_study_that_exists_keeps_what_it_had_unless_a_flag_changes_it() -> None:
    assert chosen(before=OLD) == ("tpe", "asha")
    assert chosen(100, before={"searcher": "guided", "scheduler": "evidence"}) == ("guided", "evidence")
    assert chosen(before=OLD, scheduler="median") == ("tpe", "median")


@pytest.mark.parametrize(
    ("num_backbones", "num_trials", "flags", "expected"),
    [
        (3, 24, {}, 24),
        (1, 12, {}, 0),
        (3, 23, {}, 0),
        (3, 24, {"scheduler": "asha"}, 0),
        (1, 12, {"probes": 5}, 5),
        (3, 24, {"probes": 0}, 0),
    ],
)
def test_several_backbones_are_probed_where_the_search_reads_it(
    num_backbones: int, num_trials: int, flags: dict[str, Any], expected: int
) -> None:
    config = choose_search(StudyConfig(space="demo", **flags), num_trials=num_trials, before={})

    assert choose_probes(config, num_trials=num_trials, num_backbones=num_backbones) == expected
