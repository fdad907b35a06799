"""The command: find the best way to fine-tune an image classifier on labelled images.

Flags become a plan, the plan a study, the study a search. Running the same line again continues the study.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from analysis.leaderboard import print_leaderboard
from analysis.tracking import Tracker
from analysis.tracking.tracker import first_line
from cluster.jobs.flags import check_job_folders
from cluster.machine import count_cpus, count_gpus, find_gpus
from cluster.ray_tune.elastic_slots import elastic_slots
from cluster.ray_tune.nodes import check_paths
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources, check_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.schedulers import load_scheduler
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, open_study
from cluster.study.flags import parse_flags
from cluster.study.job_environment import in_job
from cluster.study.passwords import without_password
from cluster.study.warm_start import find_warm_starts
from contract.messages import StudySettings
from contract.trial_config import TrialConfig, config_as_dict
from results import Results, attempt, how_long_a_trial_takes, why_nothing_completed
from search_spaces import describe
from trainables.batch_groups import batch_group
from trainables.data.datasets import is_url
from trainables.data.manifest import Manifest
from trainables.images.preparation import prepare_images
from trainables.model.weights import fetch_weights, is_here
from trainables.training.planned_epochs import planned_shares
from wiring import Plan, check_workers, make_plan, print_plan

console = Console(highlight=False, markup=False, emoji=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the study ended badly, 2 the flags are wrong, 130 interrupted."""
    config = parse_flags(argv)
    try:
        check_job_folders(config)
        if in_job():
            say(f"in a Ray job: searching on its cluster, with the study in {config.directory}")
        if config.address is None and config.gpus_per_trial != 0 and find_gpus().unused:
            print(find_gpus().unused, file=sys.stderr)
        plan = make_plan(config)
        if config.dry_run:
            print_plan(plan, console)
            return 0
        plan = fetch_all_weights(plan)
    except (ValueError, OSError) as error:
        return fail(error, code=2)
    except KeyboardInterrupt:
        return interrupted()
    try:
        manifest, left_out = read_images(plan)
        check_workers(config, num_val=len(manifest.indices("val")))
        return run_study(plan, manifest, left_out)
    except ValueError as error:  # flags that fit neither the images, nor the study, nor the cluster
        return fail(error, code=2)
    except (OSError, RuntimeError, SQLAlchemyError) as error:
        return fail(error, code=1)
    except KeyboardInterrupt:
        return interrupted()


def fail(error: Exception, *, code: int) -> int:
    print(f"tune.py: {without_password(first_line(error))}", file=sys.stderr)
    return code


def interrupted() -> int:
    print("\ninterrupted; run the same command to continue", file=sys.stderr)
    return 130


def say(text: str) -> None:
    """Print as it is, on one line: a terminal wraps by itself."""
    console.print(text, soft_wrap=True)


def fetch_all_weights(plan: Plan) -> Plan:
    """Download the weights that are not here yet: once, and before any trial depends on them."""
    fetched = []
    for source in plan.weights:
        if not is_here(source):
            say(f"downloading the weights of {source.backbone}: {source.location}")
        fetched.append(fetch_weights(source))
    return replace(plan, weights=tuple(fetched))


def read_images(plan: Plan) -> tuple[Manifest, str]:
    """Decode every image once, and say which ones are left out."""
    config = plan.config
    manifest, left_out = prepare_images(
        plan.listing,
        fits=[backbone.fit for backbone in plan.backbones],
        image_size=plan.image_size,
        cache_dir=Path(config.cache_dir or ""),
        budget_gb=config.cache_gb,
        seed=config.seed,
        refuse_bad=config.bad_images == "refuse",
        console=console,
    )
    if left_out:
        print(f"skipping {left_out}", file=sys.stderr)
    return manifest, left_out


def run_study(plan: Plan, manifest: Manifest, left_out: str) -> int:
    """Create or continue the study, search what is left of it, and make what it lacks at its end.

    Raises:
        ValueError: the flags do not fit; nothing has run yet.
    """
    study = open_study(plan.config, facts=study_facts(plan, manifest, left_out))
    try:
        manifest.write_csv(study.directory / "data.csv")
        search = make_search(plan, study, manifest)
        if search.finished or search.out_of_gain:
            extends = "a wider space extends it" if search.used_up else "--trials extends it"
            more = extends if search.finished else "a larger --patience goes on"
            say(f"study {plan.config.name} is finished; {more}")
            study.note_finished()
            ending = RunEnding(how="finished")
        else:
            tracker = Tracker(study.directory)
            say(plan.stopping_line)
            ending = search_with_ray(plan, study, search, tracker)
            if ending.how == "lost":  # nothing may be written any more: it may be another driver's by now
                print(f"tune.py: stopped: {ending.reason}", file=sys.stderr)
                return 1
            end_run(study, ending)
            # In the background it has kept up so far; an interrupted user waits for his prompt.
            tracker.finish(timeout=5.0 if ending.how == "interrupted" else 30.0)
        return conclude(plan, study, search, ending)
    finally:
        study.close()


def end_run(study: Study, ending: RunEnding) -> None:
    statuses = {"finished": "finished", "no gain": "finished", "failed": "failed"}
    status = statuses.get(ending.how, "stopped")
    attempt("study.json could not be written", lambda: study.end(status, how=ending.how))


def study_facts(plan: Plan, manifest: Manifest, left_out: str) -> dict[str, Any]:
    """What study.json says beside the flags; the study is continued only with the same."""
    rows, fixed = describe(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs)
    counts = {f"num_{part}": len(manifest.indices(part)) for part in ("train", "val", "test")}
    data = {
        "source": plan.config.data,
        "contents": manifest.contents,
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "left_out": left_out,
        **counts,
    }
    return {
        "space_table": [asdict(row) for row in rows],
        "space_fixed": fixed,
        "config_defaults": config_as_dict(TrialConfig(backbone="")),
        "image_size": plan.image_size,
        "max_epochs": plan.max_epochs,
        "data": data,
        "backbone_weights": {source.backbone: asdict(source) for source in plan.weights},
        "warm_start": find_warm_starts(
            plan.config.warm_start,
            runs_dir=plan.config.runs_dir,
            data=data,
            space=plan.propose,
            num_trials=plan.num_trials,
            published=[recipe.config for recipe in plan.recipes],
        ),
    }


def make_search(plan: Plan, study: Study, manifest: Manifest) -> Search:
    train_labels = manifest.labels[manifest.indices("train")]
    class_counts = np.bincount(train_labels, minlength=len(manifest.classes)).tolist()
    assert plan.config.scheduler is not None
    return Search(
        study.records,
        space=plan.propose,
        recipes=[(recipe.name, recipe.config) for recipe in plan.recipes],
        warm_starts=[(start["name"], start["params"]) for start in study.info["warm_start"]],
        make_sampler=load_searcher(plan.config.searcher),
        scheduler=load_scheduler(plan.config.scheduler),
        num_trials=plan.num_trials,
        seed=plan.config.seed,
        metrics=plan.config.metrics,
        directions=plan.config.directions,
        max_epochs=plan.max_epochs,
        patience=plan.config.patience,
        shares_of=lambda config: planned_shares(config, class_counts),
        # Several workers train one trial at a time.
        group_of=batch_group if plan.config.num_workers == 1 else lambda _: None,
    )


def search_with_ray(plan: Plan, study: Study, search: Search, tracker: Tracker) -> RunEnding:
    """Run what is left of the search on this machine's Ray, or on the cluster at --address.

    Raises:
        ValueError: the cluster does not answer or does not fit; nothing has run yet.
    """
    config = plan.config
    from trainables.distributed import distributed_trial
    from trainables.trial import Trial

    session = open_session(
        address=config.address,
        cpus=count_cpus(),
        gpus=count_gpus(),
        threads=plan.resources.threads,
        cache_dir=config.cache_dir,
        with_state_server=config.num_workers > 1,
    )
    with session as cluster:
        resources = check_resources(
            config,
            nodes=[(node.cpus, node.gpus) for node in cluster.nodes],
            can_grow=not cluster.local and config.concurrent is not None,
        )
        with ExitStack() as stack:
            count_slots, hardware = None, None
            if not cluster.local:
                hardware = {"nodes": cluster.num_nodes, "cpus": cluster.cpus, "gpus": cluster.gpus}
                check_paths(study.directory, others=paths_on_nodes(config))
                count_slots = stack.enter_context(elastic_slots(config, resources, say=say))
            progress = stack.enter_context(Progress(search, console=console))
            settings = make_settings(plan, study, resources).as_values()
            study.begin(hardware=hardware)
            tracker.start()
            return run_search(
                search,
                trainable=distributed_trial if config.num_workers > 1 else Trial,
                settings=settings,
                resources=resources,
                storage_dir=study.directory / ".ray",
                progress=progress,
                time_budget_seconds=config.time_budget_seconds,
                why_lost=lambda: study.lock.lost,
                on_ended=Cleaner(study, search).clean,
                count_slots=count_slots,
            )


def paths_on_nodes(config: StudyConfig) -> list[tuple[str, str]]:
    """Flags whose value is a file or folder that every node of a cluster needs."""
    given = (("--data", config.data), ("--weights", config.weights))
    return [(flag, value) for flag, value in given if Path(value).is_absolute()]


def make_settings(plan: Plan, study: Study, resources: Resources) -> StudySettings:
    config, agreement = plan.config, plan.agreement
    return StudySettings(
        study_directory=str(study.directory),
        classes=tuple(study.info["data"]["classes"]),
        weights=config.weights,
        backbone_weights=plan.weights,
        image_size=plan.image_size,
        seed=config.seed,
        metric=config.metrics[0],
        maximize=study.info["direction"] == "maximize",
        cache_directory=str(config.cache_dir),
        cache_gigabytes=config.cache_gb,
        num_trials=plan.num_trials,
        shared_depths=agreement.depths,
        expected_reuse=agreement.share,
        threads=resources.threads,
        data_source=plan.listing.source if is_url(plan.listing.source) else "",
        workers=resources.workers_per_trial,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker or 0.0,
        compile=config.compile,
        max_params=config.max_params,
        max_latency_ms=config.max_latency_ms,
    )


def conclude(plan: Plan, study: Study, search: Search, ending: RunEnding) -> int:
    """Say how the search ended, make the results that are lacking, and say where they are."""
    attempt("files of ended trials could not be removed", Cleaner(study, search).clean_all)
    attempt("the leaderboard could not be shown", lambda: print_leaderboard(study.directory))
    if ending.how == "failed":
        print(f"tune.py: the study ended badly: {ending.reason}", file=sys.stderr)
        return 1
    if ending.how == "interrupted":
        print(
            "stopped (interrupted); run the same command to continue: at its end it writes report and model, "
            "or with --time-budget 1s those of the trials there are",
            file=sys.stderr,
        )
        return 130
    settings = make_settings(plan, study, plan.resources)
    made = Results(study=study, search=search, settings=settings, console=console).make()
    if search.best_complete() is None:
        return say_nothing_completed(plan, study, search, ending)
    if search.finished and search.used_up:
        say(f"the search space holds no further configuration: all {len(search.trials)} are tried")
    if ending.how == "no gain":
        say(f"no gain in the last {plan.config.patience} trials: stopped; a larger --patience goes on")
    elif ending.how == "time budget":
        print("stopped (time budget); run the same command to continue", file=sys.stderr)
    return 0 if made else 1


def say_nothing_completed(plan: Plan, study: Study, search: Search, ending: RunEnding) -> int:
    if ending.how == "time budget":
        text = (
            f"no trial completed within --time-budget {plan.config.time_budget}: "
            f"{how_long_a_trial_takes(search)}; run the same command to continue, or give it more time"
        )
    else:
        text = (
            f"{why_nothing_completed(study, search)}; all: python -m analysis leaderboard {study.directory}"
        )
    print(f"tune.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
