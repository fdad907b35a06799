"""All trials of a study are ranked on the same validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.study.config import StudyConfig
from contract.messages import LeasedTrial
from search_spaces import load_space
from tests.small_study import make_settings, make_small_study
from trainables.run import TrialRun
from wiring import plan as planning


def make_lease(number: int, **config: Any) -> LeasedTrial:
    proposal = {"backbone": "lite0", "regime": "linear_probe", "unfreeze_depth": 0, **config}
    return LeasedTrial(trial=number, attempt=1, config=proposal, done_epochs=0)


def test_the_batch_size_does_not_change_which_images_are_validated(tmp_path: Path) -> None:
    settings = make_settings(make_small_study(tmp_path), image_size=32)

    validated = [
        TrialRun(
            make_lease(batch_size, batch_size=batch_size, validation_images=4), settings
        ).validated.tolist()
        for batch_size in (2, 4, 16)
    ]

    assert len(validated[0]) == 4
    assert validated[0] == validated[1] == validated[2]


def test_a_space_that_searches_the_number_of_validated_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load_space("demo")

    def suggest(trial: Any, **given: Any) -> dict[str, Any]:
        fixed = demo.suggest(trial, **given)
        trial.suggest_categorical("validation_images", (64, 128))
        return fixed

    monkeypatch.setattr(planning, "load_space", lambda _: replace(demo, suggest=suggest))

    with pytest.raises(ValueError, match="validation_images is 64, 128; let the search space return one"):
        planning.make_plan(StudyConfig(space="demo", data="digits", runs_dir=tmp_path))
