"""The epoch that a trial's rule keeps gives its score; the ranking follows it up and down."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from cluster.schedulers import Curves, even_shares, load_scheduler
from cluster.search.scores import Scores
from cluster.search.search import Search
from contract.predictions import MOST_PREDICTED, pack_classes
from tests.driven_search import Study, report, take

RULES = ("last", "lowest_loss", "best")
CURVE = [(0.5, 0.9), (0.8, 0.6), (0.7, 0.4), (0.6, 0.7)]
"""Accuracy and loss of each epoch."""
LABELS = np.array([0, 1, 2, 1, 0])


def make_scores(rule: str, **changes: Any) -> Scores:
    settings: dict[str, Any] = {"directions": ["maximize"], "shares_of": lambda _: even_shares(9)}
    return Scores(["val_accuracy", "val_loss"], rule_of=lambda _: rule, **settings | changes)


def note(scores: Scores, trial: int, epoch: int, accuracy: float, loss: float = 1.0) -> bool:
    return scores.note(trial, epoch, {"val_accuracy": accuracy, "val_loss": loss})


def search_with(study: Study, rule: str, **changes: Any) -> Search:
    def space(trial: Any) -> dict[str, Any]:
        trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        return {"kept_epoch": rule}

    return study.search(
        **{"space": space, "scheduler": load_scheduler("none"), "val_labels": LABELS} | changes
    )


def receive(search: Search, lease: Any, epoch: int, accuracy: float, loss: float, **changes: Any) -> None:
    predicted = pack_classes(np.random.default_rng(epoch).integers(3, size=len(LABELS)))
    metrics = {"val_accuracy": accuracy, "val_loss": loss}
    search.receive([report(lease, epoch, metrics=metrics, **{"predicted": predicted} | changes)])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("last", [0.5, 0.8, 0.7, 0.6]), ("lowest_loss", [0.5, 0.8, 0.7, 0.7]), ("best", [0.5, 0.8, 0.8, 0.8])],
)
def test_after_each_epoch_a_trial_has_the_values_of_the_epoch_that_its_rule_keeps(
    rule: str, expected: list[float]
) -> None:
    scores = make_scores(rule)
    values = []
    for epoch, (accuracy, loss) in enumerate(CURVE, start=1):
        note(scores, 0, epoch, accuracy, loss)
        values.append(scores.kept_values(0))

    losses = dict(CURVE)
    assert values == [(accuracy, losses[accuracy]) for accuracy in expected]
    assert scores.kept_value(0) == scores.kept_score(0) == expected[-1]
    assert dict(scores.curves[0]) == dict(enumerate((accuracy for accuracy, _ in CURVE), start=1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_ranking_is_that_of_sorting_the_kept_epochs_whatever_is_replayed(
    rule: str, direction: str
) -> None:
    dice = random.Random(3)
    scores = make_scores(rule, directions=[direction])
    curves: dict[int, dict[int, tuple[float, float]]] = {}
    sign = 1 if direction == "maximize" else -1
    for _ in range(600):
        trial = dice.randrange(8)
        curve = curves.setdefault(trial, {})
        epoch = dice.choice([len(curve) + 1, max(1, len(curve))])
        curve[epoch] = (round(dice.random(), 1), round(dice.random(), 1))
        note(scores, trial, epoch, *curve[epoch])

        kept = {}
        for number, one in curves.items():
            merits = {"last": max(one), "lowest_loss": min(one, key=lambda n: (one[n][1], n))}
            merits["best"] = max(one, key=lambda n: (sign * one[n][0], -n))
            kept[number] = one[merits[rule]]
        assert {number: scores.kept_value(number) for number in curves} == {
            n: v for n, (v, _) in kept.items()
        }
        best = min(kept, key=lambda n: (-sign * kept[n][0], kept[n][1], n))
        assert scores.best() == (best, kept[best][0])


def test_a_gain_is_a_kept_value_higher_than_the_study_ever_had() -> None:
    scores = make_scores("last")

    gains = [note(scores, 0, epoch, value) for epoch, value in enumerate((0.5, 0.4, 0.5, 0.6), start=1)]
    gains += [note(scores, 0, 5, 0.1), note(scores, 1, 1, 0.6), note(scores, 1, 2, 0.7)]

    assert gains == [True, False, False, True, False, False, True]
    assert scores.best() == (1, 0.7)


def test_an_epoch_whose_loss_is_no_number_does_not_have_the_lowest() -> None:
    scores = make_scores("lowest_loss")

    note(scores, 0, 1, 0.9, math.nan)
    before = scores.best()
    note(scores, 0, 2, 0.5, 2.0)
    note(scores, 0, 3, 0.9, math.nan)

    assert before is None
    assert scores.best() == (0, 0.5)


@pytest.mark.parametrize("rule", RULES)
def test_a_search_that_goes_on_has_the_scores_of_the_one_before(study: Study, rule: str) -> None:
    search = search_with(study, rule)
    for _ in range(3):
        lease = take(search)
        for epoch, (accuracy, loss) in enumerate(CURVE, start=1):
            receive(search, lease, epoch, accuracy - 0.1 * lease.trials[0].trial, loss)
    receive(search, lease, 5, 0.3, 0.3)
    seen = [(search.scores.kept_values(n), search.scores.kept_score(n)) for n in range(3)]
    hits = [search.scores.curves.hits(2, epoch) for epoch in range(1, 6)]

    again = search_with(study, rule)

    assert [(again.scores.kept_values(n), again.scores.kept_score(n)) for n in range(3)] == seen
    assert again.best() == search.best()
    for epoch, one in enumerate(hits, start=1):
        assert one is not None
        np.testing.assert_array_equal(again.scores.curves.hits(2, epoch), one)


@pytest.mark.parametrize(("rule", "expected"), [("last", 0.6), ("lowest_loss", 0.7), ("best", 0.8)])
def test_the_database_holds_the_value_of_the_kept_epoch(study: Study, rule: str, expected: float) -> None:
    search = search_with(study, rule, max_epochs=4)
    lease = take(search)
    for epoch, (accuracy, loss) in enumerate(CURVE, start=1):
        receive(search, lease, epoch, accuracy, loss)

    trial = study.optuna_trials()[0]

    assert (trial.state, trial.values) == (TrialState.COMPLETE, [expected])


def test_a_trial_of_a_study_without_the_rule_keeps_its_best_epoch(tmp_path: Path) -> None:
    search = Study(tmp_path).search(scheduler=load_scheduler("none"))
    lease = take(search)
    for epoch, (accuracy, loss) in enumerate(CURVE, start=1):
        receive(search, lease, epoch, accuracy, loss)

    assert search.scores.kept_value(0) == 0.8


def test_hits_say_which_validation_images_were_classified_right() -> None:
    curves = Curves(shares_of=lambda _: even_shares(9), val_labels=LABELS)

    curves.note(0, 1, 0.5, predicted=pack_classes(np.array([0, 1, 2, 2, 1])))
    curves.note(0, 2, 0.5)
    curves.note(1, 1, 0.5, predicted=pack_classes(LABELS[:3]))

    hits = curves.hits(0, 1)
    assert hits is not None and hits.dtype == bool
    assert hits.tolist() == [True, True, True, False, False]
    assert curves.hits(0, 2) is None, "nothing was reported"
    assert curves.hits(1, 1) is None, "the predictions are of other images"
    assert curves.hits(7, 1) is None


def test_a_replayed_epoch_replaces_its_hits() -> None:
    curves = Curves(shares_of=lambda _: even_shares(9), val_labels=LABELS)
    curves.note(0, 1, 0.5, predicted=pack_classes(LABELS))
    curves.note(0, 2, 0.5, predicted=pack_classes(LABELS))

    curves.note(0, 1, 0.5, predicted=pack_classes(1 - LABELS.clip(0, 1)))
    curves.note(0, 2, 0.5)

    hits = curves.hits(0, 1)
    assert hits is not None and not hits.any()
    assert curves.hits(0, 2) is None


def test_without_labels_there_are_no_hits() -> None:
    curves = Curves(shares_of=lambda _: even_shares(9))

    curves.note(0, 1, 0.5, predicted=pack_classes(LABELS))

    assert curves.hits(0, 1) is None


def test_hits_are_those_of_the_first_images_where_there_are_many() -> None:
    labels = np.random.default_rng(0).integers(10, size=MOST_PREDICTED + 100)
    curves = Curves(shares_of=lambda _: even_shares(9), val_labels=labels)

    curves.note(0, 1, 1.0, predicted=pack_classes(labels))

    hits = curves.hits(0, 1)
    assert hits is not None and len(hits) == MOST_PREDICTED and hits.all()


def test_of_equal_trials_the_one_with_the_lowest_loss_is_best_then_the_cheapest() -> None:
    scores = make_scores("last")
    rows = ((0.9, 0.5, 4000), (0.9, 0.5, 100), (0.9, 0.5, 100), (0.9, 0.4, 9000), (0.8, 0.1, 50))
    for trial, (value, loss, parameters) in enumerate(rows):
        metrics = {"val_accuracy": value, "val_loss": loss, "trainable_parameters": parameters}
        scores.note(trial, 1, metrics)

    assert scores.best() == (3, 0.9)
    assert sorted(range(5), key=scores.rank) == [3, 1, 2, 0, 4]
