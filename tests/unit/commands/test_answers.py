"""An answer hangs on what its candidates predicted, not on when files were written or how fast it ran."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.finals import Final
from contract.answer import Combination, MemberRef
from contract.finals import FinalTraining
from contract.messages import State, StudySettings
from contract.study_layout import StudyPaths
from contract.trial_config import config_as_dict, make_trial_config
from tests.study_factory import FakeTrial, add_trials, make_study
from wiring.answer_memory import measure_once, stamp_predictions
from wiring.answers import AnswerMaker, Wishes

CONFIG = config_as_dict(make_trial_config({"backbone": "lite0", "learning_rate": 1e-3}))
ONE, OTHER = (Combination.single(MemberRef("trial", number)) for number in (0, 1))


def write_predictions(path: Path, *, right: slice) -> None:
    """Sure of the right class on some of the 30 validation images, and at a loss on the others."""
    ids = np.arange(7, 37)
    labels = ids % 3
    probabilities = np.full((len(ids), 3), 1 / 3)
    probabilities[right] = 0.01
    rows = np.arange(len(ids))[right]
    probabilities[rows, labels[rows]] = 0.98
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.log(probabilities).astype(np.float32)
    np.savez(path, ids=ids, labels=labels, log_probabilities=values)


def final(number: int, training: FinalTraining, *, state: State = State.COMPLETE) -> Final:
    return Final(
        final=number,
        training=training,
        config=CONFIG,
        state=state,
        epochs=1,
        kept_at_epoch=1,
        metrics={},
        seconds=1.0,
        error="out of memory" if state is State.FAILED else None,
        worker=None,
        arrival=None,
    )


def make_maker(study: Path, *finals: Final, rule: str = "ensemble") -> AnswerMaker:
    settings = StudySettings(
        study_directory=str(study),
        classes=("daisy", "rose", "tulip"),
        weights="random",
        image_size=32,
        seed=0,
        metric="val_accuracy",
        maximize=True,
        cache_directory=str(study / "cache"),
        cache_gigabytes=0.0,
        num_trials=1,
        threads=1,
    )
    return AnswerMaker(settings=settings, trials={0: CONFIG}, finals=finals, wishes=Wishes(rule=rule))


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """A study of one trial and its repetition, each of which knows another half of the images."""
    study = make_study(tmp_path / "s", [FakeTrial(curve=[0.5])])
    paths = StudyPaths(study)
    for one, right in ((paths.trial(0), slice(0, 15)), (paths.final(0), slice(15, 30))):
        write_predictions(one.predictions, right=right)
        one.weights.touch()
    return study


def test_a_copied_study_has_the_same_candidates(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [FakeTrial(), FakeTrial()])
    copy = shutil.copytree(study, tmp_path / "copy")
    for path in copy.rglob("*.npz"):
        os.utime(path, (1, 1))

    assert stamp_predictions(StudyPaths(copy)) == stamp_predictions(StudyPaths(study)) != ""


def test_new_and_changed_candidates_are_others_but_a_refit_is_none(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [FakeTrial()])
    paths = StudyPaths(study)
    stamps = [stamp_predictions(paths)]
    write_predictions(paths.final(0).fitted_predictions, right=slice(9))
    assert stamp_predictions(paths) == stamps[0]

    add_trials(study, [FakeTrial(curve=[0.9])])
    stamps.append(stamp_predictions(paths))
    write_predictions(paths.trial(0).predictions, right=slice(9))
    stamps.append(stamp_predictions(paths))
    paths.trial(0).predictions.write_bytes(b"torn")
    stamps.append(stamp_predictions(paths))

    assert len(set(stamps)) == 4
    shutil.rmtree(study / "trials")
    assert stamp_predictions(paths) == ""


def test_costs_are_measured_once_for_each_model_and_device(tmp_path: Path) -> None:
    paths, times = StudyPaths(tmp_path), iter(range(1, 9))

    def measured(device: str, **rules: Combination) -> list[float]:
        return list(measure_once(paths, lambda _: float(next(times)), device=device)(rules).values())

    assert measured("cpu", single=ONE) == [1.0]
    assert measured("cpu", single=ONE, ensemble=OTHER) == [1.0, 2.0]
    assert measured("cuda", single=ONE) == [3.0]
    paths.costs.write_text("[]")
    assert measured("cpu", mean=ONE) == [4.0]


def test_a_trial_and_its_repetition_become_one_refit(repeated: Path) -> None:
    finals = (final(0, FinalTraining.seed(0, 1)), final(1, FinalTraining.refit(0, epochs=1)))
    maker = make_maker(repeated, *finals)
    assert len(maker.choose().refs) == 2

    answer = replace(maker, wishes=Wishes(rule="ensemble", refit=True)).choose()

    assert answer.refs == [MemberRef("final", 1)]
    assert answer.combination.members[0].weight == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("state", "told"),
    [(State.FAILED, r"failed \(out of memory\): leave --refit out"), (State.RUNNING, "run the same command")],
)
def test_a_refit_that_is_not_there_is_named_with_what_to_do(repeated: Path, state: State, told: str) -> None:
    refit = final(1, FinalTraining.refit(0, epochs=1), state=state)
    maker = make_maker(repeated, final(0, FinalTraining.seed(0, 1)), refit)

    with pytest.raises(ValueError, match=told):
        replace(maker, wishes=Wishes(rule="ensemble", refit=True)).choose()


def test_repetitions_are_of_trials_also_where_weights_are_to_be_averaged(repeated: Path) -> None:
    maker = make_maker(repeated, rule="soup")

    assert maker.find_sources(among_trials=True) == [0]
    with pytest.raises(ValueError, match="--rule soup"):
        maker.find_sources(among_trials=False)
