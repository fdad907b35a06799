"""The scheduler `evidence`: who ends, who waits, and who goes on once nothing is left to propose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.schedulers import Curves, even_shares, load_scheduler
from cluster.schedulers.evidence import chance_to_win, decide, promote, rungs
from cluster.search.search import DONE, Search
from cluster.searchers import load_searcher
from contract.messages import Action, Lease, Outcome
from contract.predictions import pack_classes
from tests.driven_search import EPOCHS, Study, accuracy, report

NUM_IMAGES = 200
LABELS = np.zeros(NUM_IMAGES, dtype=np.int64)


def curves_of(right: Mapping[int, Mapping[int, NDArray[np.bool_]]], *, paired: bool = True) -> Curves:
    """Curves of trials, given which images each got right after each epoch."""
    curves = Curves(shares_of=lambda _: even_shares(6), val_labels=LABELS if paired else None)
    for trial, epochs in right.items():
        for epoch, hits in epochs.items():
            curves.note(trial, epoch, float(hits.mean()), predicted=pack_classes((~hits).astype(np.int64)))
    return curves


def first(share: float) -> NDArray[np.bool_]:
    """Right for the first images of the split."""
    return np.arange(NUM_IMAGES) < round(share * NUM_IMAGES)


def last(share: float) -> NDArray[np.bool_]:
    return first(share)[::-1]


RISING = {epoch: first(0.7 + 0.04 * epoch) for epoch in range(1, 7)}
"""A complete trial, which ends at 0.94."""


def decide_at(epoch: int, curves: Curves) -> Action:
    return decide(trial=1, epoch=epoch, curves=curves, seed=0)


def test_images_in_groups_make_a_difference_less_certain() -> None:
    right = {0: RISING, 1: {1: first(0.7), 2: first(0.7)}}
    grouped, singles, plain = (
        Curves(shares_of=lambda _: even_shares(6), val_labels=LABELS, val_groups=groups)
        for groups in (np.arange(NUM_IMAGES) // 50, np.arange(NUM_IMAGES), None)
    )
    for curves in (grouped, singles, plain):
        for trial, epochs in right.items():
            for epoch, hits in epochs.items():
                predicted = pack_classes((~hits).astype(np.int64))
                curves.note(trial, epoch, float(hits.mean()), predicted=predicted)

    chances = [chance_to_win(1, 2, curves) for curves in (plain, singles, grouped)]

    assert None not in chances
    assert chances[1] == pytest.approx(chances[0], rel=0.02)
    assert chances[2] > 1.05 * chances[0]  # type: ignore[operator]


def test_nobody_is_judged_before_a_trial_is_complete() -> None:
    curves = curves_of({0: {1: first(0.9)}, 1: {1: first(0.1)}})

    assert chance_to_win(1, 1, curves) is None
    assert decide_at(1, curves) is Action.CONTINUE


def test_a_hopeless_trial_ends_a_doubtful_one_waits_and_a_rival_goes_on() -> None:
    decisions = [
        decide_at(2, curves_of({0: RISING, 1: {1: first(share), 2: first(share)}}))
        for share in (0.3, 0.7, 0.8)
    ]

    assert decisions == [Action.STOP, Action.PAUSE, Action.CONTINUE]


def test_a_dip_of_one_epoch_does_not_end_a_trial_that_was_ahead() -> None:
    curves = curves_of({0: RISING, 1: {1: first(0.85), 2: first(0.76)}})

    assert decide_at(2, curves) is Action.CONTINUE


def test_the_same_lead_says_less_where_trials_disagree_on_many_images() -> None:
    agrees = curves_of({0: RISING, 1: {1: first(0.66), 2: first(0.68)}})
    disagrees = curves_of({0: RISING, 1: {1: last(0.66), 2: last(0.68)}})

    chances = [chance_to_win(1, 2, curves) for curves in (agrees, disagrees)]

    assert chances[0] is not None
    assert chances[1] is not None
    assert chances[0] < chances[1] < 0.5


def test_without_predictions_the_noise_is_assumed() -> None:
    curves = curves_of({0: RISING, 1: {1: first(0.3), 2: first(0.3)}}, paired=False)

    assert curves.hits(1, 2) is None
    assert decide_at(2, curves) is Action.STOP


def test_judged_at_three_shares_of_a_schedule_and_never_at_its_end() -> None:
    assert rungs(even_shares(6)) == (1, 2, 4)
    assert rungs(even_shares(60)) == (10, 20, 40)
    assert rungs((1.0,)) == ()


def test_only_promising_trials_go_on_at_the_end_the_likeliest_first() -> None:
    waiting = {1: {2: first(0.4)}, 2: {2: first(0.74)}, 3: {2: first(0.76)}}
    curves = curves_of({0: RISING, **waiting})
    paused = {1: 2, 2: 2, 3: 2}

    assert promote(paused=paused, running={}, curves=curves, is_last=False) is None
    assert promote(paused=paused, running={}, curves=curves, is_last=True) == 3
    assert promote(paused={1: 2}, running={}, curves=curves, is_last=True) is None


SETTINGS = {"scheduler": load_scheduler("evidence"), "make_sampler": load_searcher("random")}


def run_all(search: Search) -> None:
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        for epoch in range(lease.trials[0].done_epochs + 1, EPOCHS + 1):
            if search.receive([report(lease, epoch)])[0].action is not Action.CONTINUE:
                break
        search.lease_ended(lease)


def test_a_study_ends_with_every_trial_ended_and_a_best_one_that_ran_to_its_end(tmp_path: Path) -> None:
    study = Study(tmp_path)
    search = study.search(
        scheduler=load_scheduler("evidence"), make_sampler=load_searcher("random"), num_trials=24
    )

    run_all(search)

    outcomes = [trial.outcome for trial in search.trials.values()]
    best = search.best_complete()
    assert search.finished
    assert set(outcomes) == {Outcome.COMPLETE, Outcome.PRUNED}
    assert best is not None
    assert best[0] == max(search.trials, key=lambda n: accuracy(search.trials[n].config, EPOCHS))


def test_a_study_that_was_left_in_the_middle_decides_the_same(tmp_path: Path) -> None:
    changes = {
        "scheduler": load_scheduler("evidence"),
        "make_sampler": load_searcher("random"),
        "num_trials": 16,
    }
    (tmp_path / "whole").mkdir()
    (tmp_path / "left").mkdir()
    whole, left = Study(tmp_path / "whole"), Study(tmp_path / "left")
    run_all(whole.search(**changes))
    search = left.search(**changes)
    for _ in range(9):
        lease = search.next_lease()
        assert isinstance(lease, Lease)
        for epoch in range(lease.trials[0].done_epochs + 1, EPOCHS + 1):
            if search.receive([report(lease, epoch)])[0].action is not Action.CONTINUE:
                break
        search.lease_ended(lease)

    run_all(left.search(**changes))

    curves = [[(t.number, t.state, t.intermediate_values) for t in s.optuna_trials()] for s in (whole, left)]
    assert curves[0] == curves[1]
