"""A process that its accelerator fails is replaced: the trial is tried again, the next ones do not suffer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from contract.study_layout import RunOutcome
from tests.integration.poisoned_trial import POISONOUS, PoisonedTrial
from tests.integration.test_search_with_ray import attributes, states
from tests.integration.toy_driver import make_config, run_toy_study
from tests.tiny_data import make_settings


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    return {
        "backbone": "lite0",
        "regime": "linear_probe",
        "unfreeze_depth": 0,
        "batch_size": 8,
        "max_epochs": 1,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_device_side_assert_costs_one_lease_and_not_the_workers_next_trials(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "trials")
    config = make_config(tmp_path, trials=5, concurrent=1, scheduler="none", max_epochs=1)

    ending, _ = run_toy_study(config, settings=settings.as_values(), trainable=PoisonedTrial, space=space)

    poisoned = (Path(settings.study_directory) / "poisoned").read_text()
    workers = attributes(tmp_path, "worker")
    assert ending.how is RunOutcome.FINISHED
    assert states(tmp_path) == {"COMPLETE": 5}
    assert attributes(tmp_path, "attempts") == {0: 1, POISONOUS: 2, 2: 1, 3: 1, 4: 1}
    assert workers[0].endswith(f":{poisoned}"), "the worker was warm"
    assert not any(workers[number].endswith(f":{poisoned}") for number in range(POISONOUS, 5))
    assert len({workers[number] for number in range(POISONOUS, 5)}) == 1
