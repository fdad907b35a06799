"""Settings of a searched study are those that its trials had, and images that are gone are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.study.reopening import config_of_study
from contract.messages import StudySettings
from tests.integration.finals_driver import chosen, make_searched_study
from wiring.final_runs import check_folds, check_images, reopen_settings, resources_here


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    directory = make_searched_study(tmp_path)
    config = config_of_study(directory)
    info = json.loads((directory / "study.json").read_text())
    configs = [one.config for one in chosen()]
    return reopen_settings(config, info, configs, resources=resources_here(config), num_trials=8)


def test_settings_follow_from_what_is_recorded(settings: StudySettings, tmp_path: Path) -> None:
    assert settings.study_directory == str(tmp_path / "study")
    assert settings.classes == ("blue", "green", "red")
    assert (settings.image_size, settings.metric, settings.maximize) == (32, "val_accuracy", True)
    assert "lite0" in {source.backbone for source in settings.backbone_weights}
    assert settings.shared_depths == (0, 1)
    check_images(settings)


def test_images_that_have_moved_are_named_with_a_way_out(settings: StudySettings, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")

    with pytest.raises(ValueError, match=r"^36 of 36 images .* are not there any more .*--data") as caught:
        check_images(settings)
    assert "\n" not in str(caught.value)
    check_images(replace(settings, data_source="s3://bucket/photos"))


def test_more_folds_than_images_are_refused(settings: StudySettings) -> None:
    check_folds(settings, 5)
    with pytest.raises(ValueError, match="--folds 40 is more than"):
        check_folds(settings, 40)
