"""The recorded table and the replay of searches on it."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from benchmarks.quality.methods import METHODS
from benchmarks.quality.pack import merge
from benchmarks.quality.record import list_work
from benchmarks.quality.replay import replay
from benchmarks.quality.rows import BACKBONES, MAX_EPOCHS, make_rows
from benchmarks.quality.splits import SETS, read_splits
from benchmarks.quality.table import load_table
from benchmarks.search_quality import Case, make_world, run_case

LITE0 = BACKBONES[:1]


def test_no_tile_lies_in_two_splits() -> None:
    splits = defaultdict(set)
    for path, _, split in read_splits("magnetic_tile"):
        found = re.search(r"tile\d+", path)
        assert found
        splits[found[0]].add(split)

    assert len(splits) > 200
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", SETS)
def test_every_photo_is_in_one_split_and_the_table_has_those_of_validation(name: str) -> None:
    rows = read_splits(name)

    assert len({path for path, _, _ in rows}) == len(rows)
    assert {split for _, _, split in rows} == {"train", "val", "test"}
    assert len(load_table(name).val_labels) == sum(split == "val" for _, _, split in rows)


@pytest.mark.parametrize("name", SETS)
def test_the_columns_of_a_table_belong_together(name: str) -> None:
    table = load_table(name)

    num = len(table.rows)
    assert table.predicted.shape == (len(table.val_labels), num, MAX_EPOCHS)
    assert table.test_accuracy.shape == table.val_loss.shape == table.seconds.shape == (num, MAX_EPOCHS)
    assert 0.5 < table.val_accuracy[table.trainings[1][0], -1] < 1
    assert len(table.trainings[0]) == 3  # recipes have three seeds


def test_rows_are_the_same_in_every_process_and_any_beginning_has_both_kinds() -> None:
    rows = make_rows()

    assert len({str(row.config) for row in rows}) > 1190
    assert [sum(row.is_deep for row in rows[:size]) for size in (62, 122)] == [11, 21]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "recipes alone"])
def test_a_replay_is_repeatable_and_hands_over_a_complete_row(method: str) -> None:
    world = make_world("beans", LITE0)

    first, second = (replay(world, METHODS[method], num_trials=8, slots=2, seed=3) for _ in range(2))

    assert first == second
    assert first.trials == 8
    assert first.complete >= 2  # at least the recipes
    assert first.row in world.config_of


def test_no_replay_takes_more_than_a_quarter_of_the_rows() -> None:
    world = make_world("beans", LITE0)

    found = replay(world, METHODS["random"], num_trials=100_000, slots=16, seed=0)

    assert found.trials == len(world.rows) // 4


def test_time_that_is_over_ends_a_study() -> None:
    world = make_world("beans", LITE0)

    whole = replay(world, METHODS["random"], num_trials=12, slots=1, seed=0)
    cut = replay(world, METHODS["random"], num_trials=12, slots=1, seed=0, seconds=whole.seconds / 2)

    assert cut.seconds <= whole.seconds / 2
    assert cut.trials < whole.trials


def test_a_table_that_is_added_to_keeps_what_it_had() -> None:
    table = load_table("beans")
    old = {name: getattr(table, name) for name in ("rows", "repetitions", "val_labels", "predicted")}
    old |= {name: getattr(table, name) for name in ("val_loss", "test_accuracy", "seconds")}

    again = merge(old, old)

    assert all((again[name] == old[name]).all() for name in old)


def test_a_summary_says_how_far_a_search_is_from_running_everything() -> None:
    case = Case(trials=4, slots=2)

    [summary] = run_case(case, ["random"], seeds=2, backbones=LITE0, processes=1)

    assert summary["trials"] == 4
    assert -20 < float(str(summary["regret"])) < 20
    assert set(summary["by_set"]) == set(SETS)  # type: ignore[call-overload]


def test_what_is_in_the_table_is_not_recorded_again() -> None:
    assert [work for work in list_work() if work.untrained()] == []
