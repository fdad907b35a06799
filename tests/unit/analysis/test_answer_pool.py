"""The pool holds trials that predicted the same images, and knows which of them can be chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.answer import pool as pool_module
from analysis.answer.correction import ACCURACY, correct
from analysis.answer.gate import decide
from analysis.answer.pool import Candidate, load_pool, make_pool, prefix_key
from analysis.predictions import Predictions, load_predictions
from contract.answer import MemberRef
from tests.simulated_pool import make_candidate
from tests.study_factory import FakeTrial, make_study


def keep_weights(study: Path, *numbers: int) -> None:
    for number in numbers:
        (study / "trials" / str(number) / "model.pt").write_bytes(b"weights")


def predict(ids: list[int], *, classes: int = 3, shift: int = 0) -> Predictions:
    values = np.full((len(ids), classes), np.log(1 / classes), dtype=np.float32)
    return Predictions(np.array(ids), (np.array(ids) + shift) % classes, values)


def test_complete_trials_with_weights_can_be_chosen_and_the_others_only_count(tmp_path: Path) -> None:
    trials = [
        FakeTrial(curve=(0.5, 0.9)),
        FakeTrial(curve=(0.8,)),
        FakeTrial(curve=(0.7,), outcome="pruned"),
        FakeTrial(curve=(0.6,), outcome="failed"),
        FakeTrial(curve=(0.6,), outcome=None),
    ]
    study = make_study(tmp_path / "study", trials)
    keep_weights(study, 0, 2)

    pool = load_pool(study)

    assert pool is not None
    assert [one.name for one in pool.candidates] == ["trial 0", "trial 1", "trial 2"]
    assert [one.selectable for one in pool.candidates] == [True, False, False]
    assert pool.log_probabilities.shape == (3, 30, 3) and pool.groups.tolist() == list(range(30))
    found = correct(pool, ACCURACY)
    assert found is not None and decide(found).rule == "single"
    assert found.of("ensemble").choice.combination.members[0].ref == MemberRef("trial", 0)


def test_a_study_without_predictions_has_no_pool(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", [FakeTrial(curve=(0.5,), outcome="failed")])

    assert load_pool(study) is None


def test_final_trainings_and_views_join_the_pool(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", [FakeTrial(curve=(0.9,)), FakeTrial(curve=(0.8,))])
    flipped = Candidate(MemberRef("trial", 0, "flip"), "trial 0, flipped", "lite0", "", 2.0, True)
    predictions = load_predictions(study, 0)
    assert predictions is not None

    pool = load_pool(study, extra=[(flipped, predictions)])

    assert pool is not None and len(pool) == 3 and pool.candidates[2] is flipped


def test_of_more_predictions_than_memory_the_best_trials_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", [FakeTrial(curve=(value,)) for value in (0.6, 0.9, 0.8)])
    monkeypatch.setattr(pool_module, "MOST_BYTES", 2 * 30 * 3 * 4)

    pool = load_pool(study)

    assert pool is not None and [one.ref.number for one in pool.candidates] == [1, 2]


def test_candidates_of_other_images_labels_or_classes_and_those_with_nan_are_left_out() -> None:
    broken = predict([3, 1, 2])
    broken.log_probabilities[1, 1] = np.nan
    of = [
        predict([3, 1, 2]),
        predict([1, 2]),
        predict([1, 2, 3]),
        predict([1, 2, 3], classes=4),
        predict([1, 2, 3], shift=1),
        broken,
    ]

    pool = make_pool([(make_candidate(number), one) for number, one in enumerate(of)])

    assert pool is not None
    assert [one.ref.number for one in pool.candidates] == [0, 2]
    assert pool.ids.tolist() == [1, 2, 3] and pool.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "lite0 average"),
        ({"unfreeze_depth": 0, "regime": "linear_probe"}, "lite0 average"),
        ({"head_pooling": "flatten"}, "lite0 flatten"),
        ({"unfreeze_depth": "layers:12"}, "lite0 average"),
        ({"unfreeze_depth": "all"}, ""),
        ({"regime": "scratch"}, ""),
        ({"regime": "knn"}, ""),
    ],
)
def test_a_prefix_is_shared_where_something_below_stays_frozen(
    changes: dict[str, object], expected: str
) -> None:
    row = {"backbone": "lite0", "unfreeze_depth": 1, "regime": "finetune", "head_pooling": "average"}

    assert prefix_key(row | changes) == expected
