"""A plan becomes a study: its images are read, its search is made, and its leases run on Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.finals import load_finals
from analysis.reading import load_study
from analysis.tracking import Tracker
from cluster.ray_tune.local_ray import LocalRay
from cluster.ray_tune.nodes import check_paths, elastic_slots
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources, check_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.schedulers import load_scheduler
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, recorded_classes, recorded_flags
from contract.buckets import is_url
from contract.machine import count_cpus, count_gpus
from contract.messages import StudySettings
from contract.metrics import Direction
from contract.study_layout import StudyPaths
from contract.trial_config import TrialConfig, config_as_dict
from contract.weights_source import WeightsSource
from search_spaces import describe
from trainables.batch_groups import ExpectedReuse, batch_group
from trainables.checks.known_copies import find_copies
from trainables.data.description import describe_manifest
from trainables.data.manifest import Manifest, describe_change
from trainables.images.preparation import Preparation, Recorded, prepare_images
from trainables.model.backbones import find_backbone
from trainables.training.schedules import planned_shares
from wiring.answer_processes import AnswerProcesses
from wiring.answers import AnswerMaker
from wiring.past_studies import find_starts
from wiring.plan import Plan, console, say
from wiring.synthetic_images import facts_of_synthetic, prepare_synthetic


def read_images(plan: Plan) -> tuple[Manifest, Preparation]:
    """Decode every image once, and say which ones are left out and what is odd about others."""
    config = plan.config
    manifest, found = prepare_images(
        plan.listing,
        fits=[config.fit or backbone.fit for backbone in plan.backbones],
        image_size=plan.image_size,
        cache_dir=Path(config.cache_dir or ""),
        budget_gb=config.cache_gb,
        seed=config.seed,
        refuse_bad=config.bad_images == "refuse",
        min_images=config.min_images,
        study=_recorded_images(config),
        find_copies=find_copies,
        console=console,
    )
    for line in found.complaints:
        print(line, file=sys.stderr)
    say("\n".join(describe_manifest(config.data, manifest, notes=(*plan.used.notes, *found.notes))))
    return manifest, replace(found, synthetic=prepare_synthetic(plan, manifest, found))


def _recorded_images(config: StudyConfig) -> Recorded | None:
    """The images of the study that is continued, unless its flags would cut them otherwise."""
    flags = recorded_flags(config.directory)
    if any(flags.get(name) != getattr(config, name) for name in ("seed", "group_by", "min_images")):
        return None
    return Recorded(StudyPaths(config.directory).manifest, recorded_classes(config.directory))


def study_facts(plan: Plan, manifest: Manifest, found: Preparation) -> dict[str, Any]:
    """Collect the facts of study.json beside the flags; a study is continued only if they are the same."""
    rows, fixed = describe(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs)
    counts = {f"num_{split}": len(manifest.indices(split)) for split in ("train", "val", "test")}
    recorded = StudyPaths(plan.config.directory).manifest
    data = {
        "source": plan.config.data,
        "contents": manifest.contents,
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "left_out": found.left_out,
        "notes": [asdict(note) for note in (*plan.used.notes, *manifest.notes, *found.notes)],
        **counts,
        **facts_of_synthetic(plan, found),
    }
    return {
        "space_table": [asdict(row) for row in rows],
        "space_fixed": fixed,
        "config_defaults": config_as_dict(TrialConfig(backbone="")),
        "image_size": plan.image_size,
        "fit": plan.config.fit,
        "deep_range": list(found.deep_range),
        "max_epochs": plan.max_epochs,
        "num_probes": plan.num_probes,
        "planned": dict(plan.planned),
        "data": data,
        "data_change": describe_change(recorded, manifest.paths, manifest.digests),
        "backbone_weights": {source.backbone: asdict(source) for source in plan.weights},
        "warm_start": find_starts(plan, data),
        **({"backbone_choice": list(plan.backbone_choice)} if plan.backbone_choice else {}),
    }


def find_val_labels(plan: Plan, manifest: Manifest) -> NDArray[np.int64] | None:
    """Classes of the validation images, in their order; None if trials look at some of them only."""
    labels = manifest.labels[manifest.indices("val")]
    configs = [*plan.samples, *(recipe.config for recipe in plan.recipes)]
    is_part = any(0 < config.get("validation_images", 0) < len(labels) for config in configs)
    return None if is_part else labels


def find_val_groups(manifest: Manifest) -> NDArray[np.int64] | None:
    """Groups of the validation images, numbered from 0, in their order; None where each is its own."""
    found, numbers = np.unique(manifest.groups[manifest.indices("val")], return_inverse=True)
    return numbers.astype(np.int64) if len(found) < len(numbers) else None


def make_search(plan: Plan, study: Study, manifest: Manifest) -> Search:
    train_labels = manifest.labels[manifest.indices("train")]
    class_counts = np.bincount(train_labels, minlength=len(manifest.classes)).tolist()
    synthetic_counts = plan.synthetic.class_counts(len(manifest.classes)).tolist() if plan.synthetic else ()
    assert plan.config.searcher is not None and plan.config.scheduler is not None
    pretrained = {source.backbone for source in plan.weights if source.kind != "random"}
    return Search(
        study.records,
        SearchSetup(
            space=plan.propose,
            recipes=[(recipe.name, recipe.config) for recipe in plan.recipes],
            warm_starts=[(start["name"], start["params"]) for start in study.info["warm_start"]],
            make_sampler=load_searcher(plan.config.searcher),
            widths=plan.space.widths,
            scheduler=load_scheduler(plan.config.scheduler),
            num_trials=plan.num_trials,
            seed=plan.config.seed,
            metrics=plan.config.metrics,
            directions=plan.config.directions,
            max_epochs=plan.max_epochs,
            patience=plan.config.patience,
            shares_of=lambda config: planned_shares(config, class_counts, synthetic_counts),
            val_labels=find_val_labels(plan, manifest),
            val_groups=find_val_groups(manifest),
            # Several workers train one trial at a time.
            group_of=batch_group if plan.config.num_workers == 1 else lambda _: None,
            num_probes=study.info["num_probes"],
            expected_seconds=plan.expected_seconds,
            can_probe=lambda config: find_backbone(config["backbone"]).name in pretrained,
        ),
    )


def describe_probing(study: Study, search: Search) -> str:
    """Say in one line how many frozen heads the search judges first; empty if none was asked for."""
    if not study.info["num_probes"]:
        return ""
    if not search.probes.total:
        return "probes: none, since no head of the space trains on pretrained features of a lone worker"
    number, done = search.probes.total, search.probes.num_done
    return f"probes: up to {number} frozen heads are judged before anything is proposed ({done} done)"


def run_leases(
    plan: Plan,
    study: Study,
    search: Search,
    tracker: Tracker,
    started: LocalRay | None = None,
    *,
    answering: AnswerProcesses,
    on_finished: Callable[[], None],
) -> RunEnding:
    """Run what is left of the search on this machine's Ray, or on the cluster at --address.

    Args:
        started: a Ray of this machine that is starting already.
        answering: told of every ended trial, so that it is ready at the end.
        on_finished: called once no trial is left, while Tune and Ray still run.

    Raises:
        ValueError: the cluster does not answer or does not fit; nothing has run yet.
    """
    config = plan.config
    from trainables.distributed import DistributedTrial
    from trainables.trial import Trial

    session = open_session(
        address=config.address,
        started=started,
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
                wanted = 0 if config.concurrent is None else resources.most_slots or 0
                check_paths(StudyPaths(study.directory), others=paths_on_nodes(config))
                count_slots = stack.enter_context(elastic_slots(resources, ask_for=wanted, say=say))
            progress = stack.enter_context(Progress(search, console=console))
            settings = make_settings(plan, study, resources).as_values()
            cleaner = Cleaner(study.paths, search)

            def on_ended(number: int) -> None:
                cleaner.clean(number)
                answering.start_when_due(search)

            study.begin(hardware=hardware)
            tracker.start()
            return run_search(
                search,
                trainable=DistributedTrial if config.num_workers > 1 else Trial,
                settings=settings,
                resources=resources,
                storage_dir=StudyPaths(study.directory).ray_tune,
                progress=progress,
                ends_at=plan.search_ends_at,
                ends_last=plan.time_ends_at,
                why_lost=lambda: study.lock.lost,
                on_ended=on_ended,
                on_finished=on_finished,
                count_slots=count_slots,
                inherits_environment=cluster.local,
            )


def make_answer_maker(plan: Plan, study: Study, search: Search) -> AnswerMaker:
    """Prepare the answer of a study whose search is over for now."""
    return AnswerMaker(
        settings=make_settings(plan, study, plan.resources),
        trials={number: trial.config for number, trial in search.trials.items()},
        finals=load_finals(load_study(study.directory)),
    )


def paths_on_nodes(config: StudyConfig) -> list[tuple[str, str]]:
    """List the flags whose value is a file or folder that every node of a cluster needs."""
    given = (
        ("--data", config.data),
        ("--weights", config.weights),
        ("--synthetic", config.synthetic or ""),
    )
    return [(flag, value) for flag, value in given if Path(value).is_absolute()]


def make_settings(plan: Plan, study: Study, resources: Resources) -> StudySettings:
    return settings_of(
        plan.config,
        study.info,
        resources=resources,
        reuse=plan.expected_reuse,
        num_trials=plan.num_trials,
        weights=plan.weights,
        source=plan.listing.source,
    )


def settings_of(
    config: StudyConfig,
    info: Mapping[str, Any],
    *,
    resources: Resources,
    reuse: ExpectedReuse,
    num_trials: int,
    weights: tuple[WeightsSource, ...],
    source: str,
) -> StudySettings:
    """Make the settings of a study from its flags and study.json, for a search as for what follows it.

    Args:
        info: the content of study.json.
        num_trials: trials of the study, which estimates how often activations are read again.
        source: where the images come from: a path, a data set's name, or the URL of a bucket.
    """
    return StudySettings(
        study_directory=str(config.directory),
        classes=tuple(info["data"]["classes"]),
        weights=config.weights,
        backbone_weights=weights,
        image_size=info["image_size"],
        fit=info.get("fit"),
        deep_range=tuple(info.get("deep_range") or ()),
        seed=info["seed"],
        metric=config.metrics[0],
        maximize=Direction(info["direction"]) is Direction.MAXIMIZE,
        cache_directory=str(config.cache_dir),
        cache_gigabytes=config.cache_gb,
        num_trials=num_trials,
        shared_depths=reuse.depths,
        expected_reuse=reuse.share,
        threads=resources.threads,
        data_source=source if is_url(source) else "",
        workers=resources.workers_per_trial,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker or 0.0,
        compile=config.compile,
        max_params=config.max_params,
        max_latency_ms=config.max_latency_ms,
    )
