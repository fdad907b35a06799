"""Studies of thousands of trials: rankings that are kept up to date, and the trials that TPE is shown."""

from __future__ import annotations

import math
import random

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from cluster.schedulers import Curves, even_shares
from cluster.schedulers._rungs import find_rank, stays
from cluster.search.scores import Scores
from cluster.searchers import Draw
from cluster.searchers.tpe import MOST_BEST, make_sampler, shorten


def make_long_study(num: int, *, complete: float = 0.3, direction: str = "maximize") -> optuna.Study:
    """A study of `num` ended trials, a share of `complete` and the rest pruned, and two that run."""
    dice = random.Random(0)
    study = optuna.create_study(direction=direction)
    distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for number in range(num):
        x = dice.random()
        is_complete = dice.random() < complete
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        if number in (1, num - 1):
            state = TrialState.RUNNING
        study.add_trial(
            create_trial(
                state=state,
                value=x if state == TrialState.COMPLETE else None,
                params={"x": x},
                distributions=distributions,
                intermediate_values={1: x},
            )
        )
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_of_a_long_study_tpe_sees_the_best_the_running_and_an_even_part_of_the_rest(direction: str) -> None:
    study = make_long_study(1500, direction=direction)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: trial.value or 0.0, reverse=direction == "maximize")

    part = shorten(study, most=500)._get_trials(states=tuple(TrialState))

    numbers = [trial.number for trial in part]
    assert len(numbers) == len(set(numbers)) == 500 + 2
    assert numbers == sorted(numbers)
    assert {trial.number for trial in complete[:MOST_BEST]} <= set(numbers)
    assert {1, 1499} <= set(numbers)
    assert sum(number < 750 for number in numbers) == pytest.approx(251, abs=15)


@pytest.mark.parametrize(("num", "complete"), [(400, 0.3), (1500, 0.01)])
def test_a_short_study_and_one_with_few_complete_trials_are_seen_whole(num: int, complete: float) -> None:
    study = make_long_study(num, complete=complete)

    assert shorten(study, most=500) is study


def test_a_shortened_study_is_modelled_as_good_where_the_whole_is() -> None:
    study = make_long_study(2500)
    proposals = []
    for index in range(40):
        study.sampler = make_sampler(Draw(seed=index, study_seed=0, index=index, num_startup=10))
        trial = study.ask()
        proposals.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, state=TrialState.FAIL)

    assert sum(x > 0.9 for x in proposals) > 30


def test_the_ranking_is_that_of_sorting_everything_after_each_epoch() -> None:
    dice = random.Random(1)
    scores = Scores(["loss"], directions=["minimize"], shares_of=lambda _: even_shares(200))
    best: dict[int, float] = {}
    for epoch in range(200):
        trial, value = dice.randrange(20), round(dice.random(), 1)
        scores.note(trial, epoch, {"loss": value})
        best[trial] = min(value, best.get(trial, math.inf))

        odd = {n: v for n, v in best.items() if n % 2}
        assert scores.best() == min(best.items(), key=lambda item: (item[1], item[0]))
        if odd:
            found = scores.best(counts=lambda n: bool(n % 2))
            assert found == min(odd.items(), key=lambda item: (item[1], item[0]))


def test_who_stands_at_a_rung_follows_replayed_epochs_and_leaves_out_what_is_no_number() -> None:
    points = {0: {1: 0.1, 3: 0.3}, 1: {1: math.nan}, 2: {1: 0.2}}
    curves = Curves(points, shares_of=lambda _: even_shares(9))

    curves.note(0, 1, 0.5)
    curves.note(2, 1, math.nan)

    assert dict(curves.at_rung(0)) == {0: 0.5}
    assert dict(curves.at_rung(1)) == {0: 0.3}
    assert sorted(curves) == [0, 1, 2]


def test_a_rank_and_a_rung_agree_with_sorting() -> None:
    dice = random.Random(2)
    for size in range(1, 40):
        scores = {trial: round(dice.random(), 1) for trial in range(size)}
        order = sorted(scores, key=lambda trial: (-scores[trial], trial))
        last_kept = sorted(scores.values(), reverse=True)[max(0, size // 3 - 1)]

        assert [find_rank(trial, scores) for trial in order] == list(range(size))
        if size >= 3:
            assert [t for t in scores if stays(scores[t], scores.values())] == [
                t for t in scores if scores[t] >= last_kept
            ]
