"""Checks of a submitted search: paths that mean nothing on the cluster, passwords that others would see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.study.config import WEIGHTS, StudyConfig, absolute_sqlite
from cluster.study.flags import make_parser
from cluster.study.job_environment import DEFAULT_RUNS_DIR, RUNS_VARIABLE, is_in_job_folder
from cluster.study.passwords import VARIABLES, has_password, without_password
from contract.files import did_you_mean
from contract.portfolio import SUFFIX


def check_job_flags(words: Sequence[str]) -> StudyConfig:
    """Check tune.py's flags before anything is uploaded.

    Raises:
        ValueError: a flag is wrong, here or on the cluster; the line says what to pass instead.
    """
    parser = make_parser("tune.py")
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        flag = word.split("=")[0]
        if flag.startswith("--") and flag not in known:
            hint = did_you_mean(flag, known)
            raise ValueError(f"unknown argument {flag}{hint and f'; {hint}'}")
    values = vars(parser.parse_args(list(words)))
    if values["address"] is not None:
        raise ValueError("leave --address out: the job joins the cluster that it is submitted to")
    _check_places(values)
    for name, variable in VARIABLES.items():
        if has_password(values[name]):
            raise ValueError(
                f"--{name.replace('_', '-')} holds a password, which all would see in the job's command line "
                f"and log: leave it out, and set {variable} where the cluster's head node is started"
            )
    # Weights, corrections, classes and synthetic images are looked for where the job runs.
    there = {"weights": "auto", "corrections": None, "classes": None, "synthetic": None}
    return StudyConfig(**values | there)


def check_job_folders(config: StudyConfig) -> None:
    """Refuse, inside a job, a run directory or a database that is deleted with the job.

    Raises:
        ValueError: one is; the line says what to pass instead.
    """
    if is_in_job_folder(config.runs_dir):
        raise ValueError(
            f"--runs-dir {config.runs_dir} lies in the job's temporary folder, which is deleted with the "
            f"job: pass an absolute path that every node sees, or set {RUNS_VARIABLE} to one on the head node"
        )
    if config.storage is not None and is_in_job_folder(Path(config.storage)):
        raise ValueError(
            f"--storage {without_password(config.storage)} lies in the job's temporary folder, which is "
            "deleted with the job: leave it out, to keep it with the study, or pass an absolute path"
        )


def _check_places(values: dict[str, object]) -> None:
    runs_dir = Path(str(values["runs_dir"]))
    if runs_dir != DEFAULT_RUNS_DIR and not runs_dir.expanduser().is_absolute():
        raise ValueError(
            f"--runs-dir {runs_dir} is relative, and a job's own folder is temporary: "
            "pass an absolute path that every node sees"
        )
    storage = str(values["storage"])
    if absolute_sqlite(storage) != storage:
        raise ValueError(
            f"--storage {storage} is relative, and a job's own folder is temporary: leave it out, to keep "
            "the database with the study, or pass an absolute path"
        )
    data = str(values["data"])
    if (
        "://" not in data
        and not Path(data).is_absolute()
        and (len(Path(data).parts) > 1 or Path(data).exists())
    ):
        raise ValueError(
            f"--data {data} is relative, and data is not uploaded: pass an absolute path that every node "
            "sees, a bucket (s3://…), or the name of a data set"
        )
    for flag in ("cache_dir", "weights", "corrections", "classes", "synthetic"):
        name, value = flag.replace("_", "-"), values[flag]
        if value is not None and value not in WEIGHTS and not Path(str(value)).expanduser().is_absolute():
            raise ValueError(f"--{name} {value} is relative: pass an absolute path on the nodes")
    for start in values["warm_start"] or ():  # type: ignore[attr-defined]
        if start.endswith(SUFFIX) and not Path(start).expanduser().is_absolute():
            raise ValueError(f"--warm-start {start} is relative: pass an absolute path on the nodes")
