"""A study that was searched is opened again, and its final trainings run on Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.ray_tune.nodes import check_paths, elastic_slots
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources, check_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.search.finals import FinalTrainings
from cluster.study.config import StudyConfig
from cluster.study.directory import Study
from cluster.study.final_records import FinalRecord
from contract.machine import count_cpus, count_gpus
from contract.messages import StudySettings
from contract.metrics import Direction
from contract.study_layout import StudyPaths
from contract.trial_config import config_as_dict, make_trial_config
from contract.weights_source import WeightsSource
from trainables.batch_groups import expect_reuse
from trainables.data.folds import cut_folds
from trainables.data.manifest import read_manifest
from trainables.data.synthetic import read_synthetic
from trainables.model.backbones import find_backbone
from trainables.model.weights import fetch_weights, locate_weights
from wiring.plan import console, say
from wiring.search import paths_on_nodes, settings_of

logger = logging.getLogger("unfreeze")
NAMED = 3
"""Images that an error names; the others are counted."""


def reopen_settings(
    config: StudyConfig,
    info: Mapping[str, Any],
    configs: Iterable[Mapping[str, Any]],
    *,
    resources: Resources,
    num_trials: int,
) -> StudySettings:
    """Make the settings of a study from study.json, without decoding an image or planning a search.

    Args:
        config: of `config_of_study`.
        info: the content of study.json.
        configs: configurations that are to be run or loaded: the weights of their backbones are fetched.
        num_trials: trials of the study, which estimates how often activations are read again.

    Raises:
        ValueError: weights of the study are not on this machine and cannot be downloaded.
    """
    known = [config_as_dict(make_trial_config(one)) for one in configs]
    return settings_of(
        config,
        info,
        resources=resources,
        reuse=expect_reuse(known),
        num_trials=num_trials,
        weights=_fetch_weights(config, info, {str(one["backbone"]) for one in known}),
        source=config.data,
    )


def _fetch_weights(
    config: StudyConfig, info: Mapping[str, Any], backbones: set[str]
) -> tuple[WeightsSource, ...]:
    """All recorded weights; those of the backbones that are used are downloaded where they are missing."""
    recorded = {name: WeightsSource(**source) for name, source in info.get("backbone_weights", {}).items()}
    used = {find_backbone(name).name for name in backbones}
    for name in used - recorded.keys():
        recorded[name] = locate_weights(find_backbone(name), config.weights, seed=info["seed"])
    return tuple(fetch_weights(one) if name in used else one for name, one in sorted(recorded.items()))


def check_images(settings: StudySettings) -> None:
    """Check that the images of data.csv still lie where it says; a bucket's are copied again where needed.

    Raises:
        ValueError: some do not.
    """
    if settings.data_source:
        return
    table = settings.paths.manifest
    if not table.is_file():
        raise ValueError(f"{table} is missing, which says where the images of the study lie: put it back")
    paths = read_manifest(table, settings.classes).paths
    if settings.paths.synthetic.is_file():
        paths += read_synthetic(settings.paths.synthetic).paths
    gone = [path for path in paths if not path.is_file()]
    if gone:
        named = ", ".join(str(path) for path in gone[:NAMED]) + (", …" if len(gone) > NAMED else "")
        raise ValueError(
            f"{len(gone)} of {len(paths)} images of the study are not there any more ({named}): put them "
            "back, or run the tune.py command of the study once more with their new place as --data (of "
            "synthetic ones --synthetic)"
        )


def check_folds(settings: StudySettings, num_folds: int) -> None:
    """Check that train and validation images can be cut into so many folds.

    Raises:
        ValueError: they have too few groups.
    """
    manifest = read_manifest(settings.paths.manifest, settings.classes)
    ids = np.concatenate([manifest.indices("train"), manifest.indices("val")])
    cut_folds(manifest.labels[ids], manifest.groups[ids], num_folds=num_folds, seed=settings.seed)


def run_finals(
    study: Study, config: StudyConfig, settings: StudySettings, planned: Sequence[FinalRecord]
) -> RunEnding:
    """Run final trainings on this machine's Ray, or on the cluster at --address, and record what they do.

    Those that ended before are none of `planned`; so the same call goes on after a kill.

    Args:
        study: of `reopen_study`.
        settings: of `reopen_settings`; resources are decided here.
        planned: of `plan_finals`.

    Raises:
        ValueError: the cluster does not answer or does not fit, or images are gone; nothing has run yet.
    """
    from trainables.distributed import DistributedTrial
    from trainables.trial import Trial

    check_images(settings)
    for num_folds in sorted({one.training.num_folds for one in planned if one.training.num_folds}):
        check_folds(settings, num_folds)
    trainings = FinalTrainings(
        study.records,
        planned,
        metric=settings.metric,
        direction=Direction.MAXIMIZE if settings.maximize else Direction.MINIMIZE,
    )
    can_grow = config.concurrent is not None
    limit = min(config.concurrent or len(planned), len(planned))
    config = replace(config, concurrent=max(1, limit), trials=None)
    session = open_session(
        address=config.address,
        cpus=count_cpus(),
        gpus=count_gpus(),
        threads=settings.threads,
        cache_dir=config.cache_dir,
        with_state_server=config.num_workers > 1,
    )
    with session as cluster, ExitStack() as stack:
        nodes = [(node.cpus, node.gpus) for node in cluster.nodes]
        resources = check_resources(config, nodes=nodes, can_grow=can_grow and not cluster.local)
        count_slots = None
        if not cluster.local:
            check_paths(study.paths, others=paths_on_nodes(config))
            count_slots = stack.enter_context(elastic_slots(resources, ask_for=0, say=say))
        progress = stack.enter_context(Progress(trainings, console=console))
        settings = replace(
            settings,
            threads=resources.threads,
            workers=resources.workers_per_trial,
            gpus_per_worker=resources.gpus_per_worker or 0.0,
        )
        ending = run_search(
            trainings,
            trainable=DistributedTrial if config.num_workers > 1 else Trial,
            settings=settings.as_values(),
            resources=resources,
            storage_dir=study.paths.ray_tune,
            progress=progress,
            why_lost=lambda: study.lock.lost,
            on_ended=lambda number: remove_checkpoints(study.paths, [number]),
            count_slots=count_slots,
            inherits_environment=cluster.local,
        )
    clean_finals(study.paths, trainings)
    return ending


def clean_finals(paths: StudyPaths, trainings: FinalTrainings) -> None:
    """Remove the checkpoints of what has ended, also those that a killed run left."""
    ended = [number for number, record in trainings.finals.items() if record.state.has_ended]
    remove_checkpoints(paths, ended)


def remove_checkpoints(paths: StudyPaths, finals: Iterable[int]) -> None:
    """Remove the checkpoints of final trainings whose outcome is recorded."""
    for path in (path for number in finals for path in paths.final(number).checkpoints):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s is not removed: %s", path, error.strerror)


def resources_here(config: StudyConfig) -> Resources:
    """Resources of one training on this machine, by the flags of the study."""
    return check_resources(replace(config, address=None), nodes=[(count_cpus(), count_gpus())])
