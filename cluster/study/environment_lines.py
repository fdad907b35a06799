"""Says in a line each which environment variables of others a search follows, and which it does not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cluster.study.config import TRACKING_VARIABLE, StudyConfig, absolute_sqlite
from cluster.study.job_environment import in_job
from contract.environment import make_private, private_cache_dir, private_folder, why_not_writable
from contract.files import printable
from contract.sqlite_files import sqlite_url
from contract.study_layout import CachePaths, StudyPaths

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Threads of a process's arithmetic; the session sets them for its workers."""
RUN_VARIABLES = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


def follow_environment(config: StudyConfig, environment: Mapping[str, str]) -> tuple[StudyConfig, list[str]]:
    """Adapt the flags to folders that cannot be written, and say in a line each what a user may not expect.

    Raises:
        ValueError: the runs directory cannot be written; nothing has been read yet.
        OSError: there is no folder for a private cache either.
    """
    config, private = choose_folders(config)
    return config, [*([private] if private else []), *describe_environment(config, environment)]


def describe_environment(config: StudyConfig, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that a user may expect to count and that does not, and for MLflow's."""
    tracking = environment.get(TRACKING_VARIABLE, "")
    usual = sqlite_url(StudyPaths(config.directory).tracking_database)
    if tracking and usual != config.tracking_uri == absolute_sqlite(tracking):
        yield f"MLflow: {printable(tracking)}, by {TRACKING_VARIABLE}"
    if given := [name for name in RUN_VARIABLES if environment.get(name)]:
        yield f"{', '.join(given)} not used: a study is an experiment and runs of its own, by its name"
    address = environment.get("RAY_ADDRESS", "")
    if address and not config.address and not in_job():
        yield f"RAY_ADDRESS={address} not used: pass --address {address} to search on that cluster"
    threads = str(max(1, int(config.cpus_per_trial)))
    other = [f"{name}={environment[name]}" for name in THREAD_VARIABLES if environment.get(name)]
    other = [text for text in other if text.partition("=")[2] != threads]
    if other:
        yield f"{', '.join(other)} not used in trials: each has {threads}, by --cpus-per-trial"


def choose_folders(config: StudyConfig) -> tuple[StudyConfig, str]:
    """Give a user who cannot write the cache a private one, and say so in a line.

    Raises:
        ValueError: the runs directory cannot be written; nothing has been read yet.
        OSError: there is no folder for a private cache either.
    """
    if why := why_not_writable(config.directory):
        raise ValueError(f"--runs-dir {config.runs_dir}: {why}; pass another one")
    assert config.cache_dir is not None
    paths = CachePaths(config.cache_dir)
    below = tuple(path.name for path in (paths.images, paths.activations, paths.datasets))
    why = why_not_writable(config.cache_dir, below=below)
    private = private_cache_dir()
    if not why:
        return config, ""
    if not config.dry_run:
        make_private(private_folder())
    line = f"the cache of this run is {private}, since {why}; --cache-dir DIR names another"
    return replace(config, cache_dir=private), line
