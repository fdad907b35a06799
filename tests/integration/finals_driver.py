"""A process that runs the final trainings of a study on a Ray of its own, for tests that kill it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.search.finals import Chosen, plan_finals
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from cluster.study.reopening import config_of_study, reopen_study
from contract.trial_config import config_as_dict, make_trial_config
from tests.tiny_data import make_settings
from wiring.final_runs import reopen_settings, resources_here, run_finals

HEAD: dict[str, Any] = {"backbone": "lite0", "regime": "linear_probe", "unfreeze_depth": 0, "max_epochs": 8}
DEEP: dict[str, Any] = {"backbone": "lite0", "unfreeze_depth": 1, "max_epochs": 12, "policy": "light"}
SHARED: dict[str, Any] = {"batch_size": 8, "learning_rate": 3e-3}


def chosen() -> list[Chosen]:
    """Two trials, of which the first keeps its last epoch, and the second one before its end."""
    configs = [config_as_dict(make_trial_config({**config, **SHARED})) for config in (HEAD, DEEP)]
    return [
        Chosen(trial=0, config=configs[0], kept_epoch=8),
        Chosen(trial=1, config=configs[1], kept_epoch=5),
    ]


def make_searched_study(folder: Path, *, images: Path | None = None) -> Path:
    """A study directory as a search leaves it, less its trials."""
    settings = make_settings(folder, source=images, fits=("crop",))
    config = StudyConfig(
        space="demo",
        data=str(images or folder / "images"),
        study="study",
        runs_dir=folder,
        concurrent=2,
        cache_dir=folder / "cache",
    )
    weights = {source.backbone: asdict(source) for source in settings.backbone_weights}
    facts = {
        "data": {"classes": list(settings.classes), "fingerprint": "f"},
        "image_size": settings.image_size,
        "deep_range": [],
        "backbone_weights": weights,
    }
    open_study(config, facts=facts).close()
    return folder / "study"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--refit", action="store_true")
    given = parser.parse_args(argv)
    config = config_of_study(given.study)
    study = reopen_study(config)
    try:
        planned = plan_finals(
            study.records.load_finals(),
            chosen=chosen(),
            seeds=given.seeds,
            folds=given.folds,
            refit=given.refit,
        )
        settings = reopen_settings(
            config,
            study.info,
            [one.config for one in chosen()],
            resources=resources_here(config),
            num_trials=8,
        )
        ending = run_finals(study, config, settings, planned)
    finally:
        study.close()
    print(ending)
    return 0 if ending.how == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
