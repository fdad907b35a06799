"""What differs for a tune.py that a Ray cluster's job server has started: its cluster and its folders."""

from __future__ import annotations

import os
from pathlib import Path

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable in every process that its job server starts. (Ray's own constant would cost the
import of Ray, half a second in commands that need none of it.)"""
RUNS_VARIABLE = "UNFREEZE_RUNS"
CLUSTER_ADDRESS = "auto"
"""Ray's word for the cluster that the environment names; a job's environment names the job's cluster."""
DEFAULT_RUNS_DIR = Path("runs")
JOB_RUNS_DIR = Path("~/unfreeze/runs")
_JOB_FOLDER = "working_dir_files"
"""Ray unpacks a job's working directory below a folder of this name."""


def in_job() -> bool:
    """Whether a Ray cluster's job server started this process."""
    return JOB_VARIABLE in os.environ


def job_runs_dir() -> Path:
    """The folder for the studies of jobs that were given none: $UNFREEZE_RUNS, else ~/unfreeze/runs.

    A job's own folder will not do: Ray deletes it after the job, and on every node it is another one.
    """
    return Path(os.environ.get(RUNS_VARIABLE) or JOB_RUNS_DIR).expanduser().absolute()


def is_in_job_folder(path: Path) -> bool:
    """Whether the path lies where Ray has unpacked a job, and so vanishes with it."""
    return _JOB_FOLDER in path.parts
