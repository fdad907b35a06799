"""The cluster and the folders of a tune.py that the job server of a Ray cluster has started."""

from __future__ import annotations

import os
from pathlib import Path

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in each process that its job server starts; Ray's own constant costs an import of 0.5 s."""
RUNS_VARIABLE = "UNFREEZE_RUNS"
"""Names the folder for the studies of jobs."""
CLUSTER_ADDRESS = "auto"
"""Ray's address for the cluster that the environment names, which in a job is the job's own."""
DEFAULT_RUNS_DIR = Path("runs")
"""Folder of the studies outside a job."""
JOB_RUNS_DIR = Path("~/unfreeze/runs")
_JOB_FOLDER = "working_dir_files"
"""Name of the folder below which Ray unpacks the working directories of jobs."""


def in_job() -> bool:
    """Whether a Ray cluster's job server started this process."""
    return JOB_VARIABLE in os.environ


def job_runs_dir() -> Path:
    """Folder for the studies of a job without --runs-dir: $UNFREEZE_RUNS, else ~/unfreeze/runs.

    It is not the job's working directory, which Ray deletes after the job and unpacks anew on every node.
    """
    return Path(os.environ.get(RUNS_VARIABLE) or JOB_RUNS_DIR).expanduser().absolute()


def is_in_job_folder(path: Path) -> bool:
    """Whether the path lies in a job's working directory, which vanishes with the job."""
    return _JOB_FOLDER in path.parts
