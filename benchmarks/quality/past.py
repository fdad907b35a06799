"""Past studies of the table's other data sets, and what each way of a warm start makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from analysis.portfolio import PastTrial, choose_trials
from benchmarks.quality.methods import METHODS
from benchmarks.quality.replay import World, replay
from benchmarks.quality.rows import recipes
from benchmarks.quality.splits import SETS, read_splits
from benchmarks.quality.table import load_table, recorded_rows
from cluster.study.warm_start import Candidate, likeness, rank_candidates

Starts = list[tuple[str, Mapping[str, Any]]]
Learn = Callable[[Sequence[PastTrial], str, int], Starts]
"""Configurations to begin with, of past trials, for the new study's set, and at most so many."""


@cache
def make_world(name: str, backbones: tuple[str, ...]) -> World:
    """The rows that all sets have, on one of them."""
    rows = recorded_rows([load_table(one) for one in SETS])
    return World(load_table(name), rows, backbones=backbones)


@cache
def past_trials(name: str, backbones: tuple[str, ...], *, trials: int, seed: int) -> tuple[PastTrial, ...]:
    """Trials that ran to their end in a study of this size by the default search, started cold."""
    world, method = make_world(name, backbones), METHODS["now"]
    found = replay(world, method, num_trials=trials, slots=2, seed=seed)
    return tuple(_past(world, name, row, seed=seed) for row in found.finished)


@cache
def all_trials(name: str, backbones: tuple[str, ...], *, seed: int) -> tuple[PastTrial, ...]:
    """Every row, as if a study had run them all: the most that a past could teach."""
    world = make_world(name, backbones)
    return tuple(_past(world, name, row.number, seed=seed) for row in world.rows)


def _past(world: World, name: str, row: int, *, seed: int) -> PastTrial:
    table = world.table
    training = table.training(row, seed)
    return PastTrial(
        name=f"row {row} of {name}",
        data=name,
        values={key: world.config_of[row][key] for key in world.distributions},
        score=float(table.val_accuracy[training, table.kept(training, METHODS["now"].rule)]),
        is_recipe=row < len(recipes()),
    )


def by_portfolio(trials: Sequence[PastTrial], _: str, size: int) -> Starts:
    """What `--warm-start auto` takes."""
    return [(one.name, one.values) for one in choose_trials(trials, size=size)]


def by_likeness(trials: Sequence[PastTrial], name: str, size: int) -> Starts:
    """What `--warm-start NAME ...` takes: the best of the past studies, those on similar data first."""
    found = []
    for other in dict.fromkeys(trial.data for trial in trials):
        ranked = sorted((t for t in trials if t.data == other), key=lambda t: -t.score)
        alike = likeness(data_facts(other), data_facts(name))
        found += [
            Candidate(name=t.name, params=t.values, merit=alike / rank)
            for rank, t in enumerate(ranked[: 2 * size + 4], start=1)
        ]
    chosen = rank_candidates(found, fit=dict, published=[recipe.config for recipe in recipes()])
    return [(one["name"], one["params"]) for one in chosen[:size]]


@cache
def data_facts(name: str) -> Mapping[str, Any]:
    """What study.json says of a set's images."""
    rows = read_splits(name)
    return {
        "contents": name,
        "classes": sorted({label for _, label, _ in rows}),
        "num_train": sum(split == "train" for *_, split in rows),
    }


WAYS: dict[str, Learn] = {"likeness": by_likeness, "portfolio": by_portfolio}
