"""A driver around ToyTrial, run as a process of its own, so that it can be killed."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import optuna

from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import check_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.schedulers import load_scheduler
from cluster.search.leasing import GroupOf
from cluster.search.proposals import Space
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, open_study
from contract.study_layout import StudyPaths


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_categorical("regime", ("finetune", "linear_probe"))
    return {"backbone": "toy"}


def make_config(runs_dir: Path, **flags: Any) -> StudyConfig:
    return StudyConfig(space="toy", data="toy", study="toy", runs_dir=runs_dir, **flags)


def run_toy_study(
    config: StudyConfig,
    *,
    settings: dict[str, Any],
    time_budget: float | None = None,
    group_of: GroupOf = lambda _: None,
    trainable: Any = None,
    space: Space = space,
) -> tuple[RunEnding, Search]:
    """Run a search to its end on the Ray that this process is connected to."""
    from tests.integration.toy_trainable import ToyTrial

    facts = {"space_table": [], "data": {"fingerprint": "toy"}, "image_size": 1, "max_epochs": 9}
    study = open_study(config, facts=facts)
    try:
        search = make_search(study, config, group_of=group_of, space=space)
        with Progress(search) as progress:
            ending = run_search(
                search,
                trainable=trainable or ToyTrial,
                settings=settings,
                resources=check_resources(config, nodes=[(2, 0)]),
                storage_dir=StudyPaths(study.directory).ray_tune,
                progress=progress,
                ends_at=math.inf if time_budget is None else time.time() + time_budget,
            )
    finally:
        study.close()
    return ending, search


def make_search(study: Study, config: StudyConfig, *, group_of: GroupOf, space: Space) -> Search:
    return Search(
        study.records,
        SearchSetup(
            space=space,
            make_sampler=load_searcher(config.searcher or "tpe"),
            scheduler=load_scheduler(config.scheduler or "asha"),
            num_trials=config.trials or 8,
            seed=config.seed,
            metrics=config.metrics,
            patience=config.patience,
            max_epochs=config.max_epochs or 9,
            num_startup=4,
            group_of=group_of,
            num_probes=config.probes or 0,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--cpus-per-trial", type=float, default=1.0)
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--settings", type=json.loads, default={})
    flags = parser.parse_args()
    names = ("trials", "concurrent", "cpus_per_trial", "scheduler")
    config = make_config(flags.runs_dir, **{name: getattr(flags, name) for name in names})
    began = time.perf_counter()
    with open_session(cpus=2, gpus=0, cache_dir=config.cache_dir):
        started = time.perf_counter()
        ending, search = run_toy_study(config, settings=flags.settings)
        ended = time.perf_counter()
    times = {"start": started - began, "run": ended - started, "close": time.perf_counter() - ended}
    print(json.dumps({"how": ending.how, "reason": ending.reason, "counts": search.counts()} | times))


if __name__ == "__main__":
    main()
