"""StudyConfig: every flag of tune.py, its default and its check."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster import schedulers, searchers
from cluster.study.job_environment import CLUSTER_ADDRESS, DEFAULT_RUNS_DIR, in_job, job_runs_dir
from cluster.study.passwords import has_password, without_password
from contract.files import did_you_mean

WEIGHTS = ("auto", "random")
BAD_IMAGES = ("skip", "refuse")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_INSTEAD_OF_PASSWORD = {
    "tracking_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (PGPASSWORD for a PostgreSQL)",
    "data": "give it in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the like)",
    "weights": "pass a file",
    "warm_start": "pass names or directories of studies",
    "address": "set RAY_AUTH_TOKEN_PATH to the file with the cluster's token",
}
_STUDY_NAME = re.compile(r"[^/\\\0]+")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What the user asked for on the command line."""

    space: str
    """Search space: a file of search_spaces."""

    data: str = "digits"
    """Labelled images: a folder (s3://, gs:// too), a CSV file (path,label[,split]) or a data set's name."""

    study: str | None = None
    """Name of the study; running it again continues it [<space>-<data>]."""

    runs_dir: Path = DEFAULT_RUNS_DIR
    """Folder that holds the studies; in a cluster's job $UNFREEZE_RUNS, else ~/unfreeze/runs."""

    trials: int | None = None
    """Trials of the study in all, recipe and failed ones included [what the space says]."""

    max_epochs: int | None = None
    """Full budget of a trial in epochs [what the space says]."""

    time_budget: str | None = None
    """Stop after this long: 2h, 90m, 45s, 1h30m [no limit]."""

    backbones: tuple[str, ...] = ()
    """Search these backbones only [all of the space's]."""

    weights: str = "auto"
    """Pretrained weights: auto (packaged, local cache, then the hub), random, or a file or folder."""

    image_size: int | None = None
    """Side of the training images in pixels [the backbones' own]."""

    metric: str = "val_accuracy"
    """What the search optimizes; several, comma-separated, give the best trade-offs between them."""

    searcher: str = "tpe"
    """Who proposes configurations: a file of cluster/searchers."""

    scheduler: str | None = None
    """Who stops bad trials early: a file of cluster/schedulers [asha; with several metrics none]."""

    patience: int | None = None
    """Stop when so many trials in a row have ended without a new best value [never]."""

    warm_start: tuple[str, ...] = ()
    """Try the best configurations of these earlier studies first: names in --runs-dir, or directories."""

    max_params: int | None = None
    """Most parameters a classifier may have; larger ones count as infeasible [no limit]."""

    max_latency_ms: float | None = None
    """Most milliseconds it may take for one image on a trial's device; slower is infeasible [no limit]."""

    concurrent: int | None = None
    """Most trials at once [as many as the machine holds]."""

    cpus_per_trial: float = 1.0
    """CPU cores of a trial; with several workers, of each."""

    gpus_per_trial: float | None = None
    """GPUs of one trial: 2 are two workers of one each, 0.5 is half of one [1 a worker if there are GPUs]."""

    workers_per_trial: int | None = None
    """Processes that train one trial together, through Ray Train [one for each of its GPUs, else 1]."""

    compile: bool = False
    """Put what trains through torch.compile: minutes at first, faster epochs where a trial takes many."""

    storage: str | None = None
    """Database of the study: an SQLAlchemy URL [SQLite in the study directory]."""

    tracking_uri: str | None = None
    """MLflow store or server [SQLite in the runs directory]."""

    bad_images: str = "skip"
    """What to do with images that cannot be read: skip or refuse."""

    cache_dir: Path | None = None
    """Folder of decoded images and activations [$UNFREEZE_CACHE, else ~/.cache/unfreeze]."""

    cache_gb: float = 20.0
    """Most disk the cache may use, in GB: decoded images, activations and a bucket's copies together."""

    seed: int = 0
    """Every random choice of the study follows from it."""

    address: str | None = None
    """Join the Ray cluster at this address [a job's own cluster; else start Ray here]."""

    dry_run: bool = False
    """Check everything, say what would run, start nothing."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_passwords()
        _check_choice("searcher", self.searcher, searchers.names())
        self._check_metrics()
        _check_choice("scheduler", self.scheduler or "none", schedulers.names())
        _check_choice("bad-images", self.bad_images, BAD_IMAGES)
        if self.time_budget is not None:
            parse_duration(self.time_budget)
        if in_job():
            self._take_what_the_job_has()
        self._set("runs_dir", Path(self.runs_dir).expanduser().absolute())
        self._set("cache_dir", _cache_dir(self.cache_dir))
        self._set("backbones", tuple(self.backbones))
        self._set("warm_start", tuple(self.warm_start))
        if Path(self.data).expanduser().exists():
            self._set("data", str(Path(self.data).expanduser().absolute()))
        if self.weights not in WEIGHTS:
            self._set("weights", _weights_path(self.weights))
        if self.storage is not None:
            self._set("storage", absolute_sqlite(self.storage))
        if self.study is None:
            self._set("study", f"{self.space}-{_data_name(self.data)}")
        if self.study is not None and (not _STUDY_NAME.fullmatch(self.study) or self.study in {".", ".."}):
            raise ValueError(f"--study must be a plain name without slashes, got {self.study!r}")
        if self.tracking_uri is None:
            self._set("tracking_uri", f"sqlite:///{self.runs_dir / 'mlflow.db'}")

    @property
    def name(self) -> str:
        assert self.study is not None, "tune.py fills in the space's data set first"
        return self.study

    @property
    def directory(self) -> Path:
        """The study directory: everything that is on disk about this study."""
        return self.runs_dir / self.name

    @property
    def storage_url(self) -> str:
        if self.storage is None:
            return f"sqlite:///{self.directory / 'study.db'}"
        # SQLAlchemy would look for psycopg2; psycopg 3 is what we install.
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.storage, flags=re.IGNORECASE)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The first is what schedulers and the ranking go by."""
        return tuple(name.strip() for name in self.metric.split(","))

    @property
    def directions(self) -> tuple[str, ...]:
        """maximize or minimize, of each metric."""
        return tuple("minimize" if _is_cost(name) else "maximize" for name in self.metrics)

    @property
    def num_workers(self) -> int:
        """Processes that train one trial together; each uses at most one GPU."""
        if self.workers_per_trial is not None:
            return self.workers_per_trial
        return max(1, int(self.gpus_per_trial or 0))

    @property
    def gpus_per_worker(self) -> float | None:
        """Each worker's part of the trial's GPUs; None = one, if there are GPUs."""
        return None if self.gpus_per_trial is None else self.gpus_per_trial / self.num_workers

    @property
    def time_budget_seconds(self) -> float | None:
        return None if self.time_budget is None else parse_duration(self.time_budget)

    def as_dict(self) -> dict[str, Any]:
        """The flags as plain values, the way study.json keeps them: without the database's password."""
        flags = asdict(self) | {"runs_dir": str(self.runs_dir), "cache_dir": str(self.cache_dir)}
        flags["storage"] = self.storage and without_password(self.storage, whole=True)
        return flags | {"backbones": list(self.backbones), "warm_start": list(self.warm_start)}

    def _take_what_the_job_has(self) -> None:
        """In a job, search on the job's cluster, and keep the studies where they outlive the job."""
        self._set("address", self.address or CLUSTER_ADDRESS)
        if self.runs_dir == DEFAULT_RUNS_DIR:
            self._set("runs_dir", job_runs_dir())

    def _check_metrics(self) -> None:
        if not all(self.metrics) or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"--metric must be a name, or different names with commas, got {self.metric!r}")
        if self.scheduler is None:
            self._set("scheduler", "asha" if len(self.metrics) == 1 else "none")
        elif len(self.metrics) > 1 and self.scheduler != "none":
            raise ValueError(
                f"--scheduler {self.scheduler} judges by one metric and would stop trials that are best by "
                "another: with several use --scheduler none"
            )

    def _check_passwords(self) -> None:
        """Refuse passwords in what is written down; the database's is used, but never written."""
        for name, instead in _INSTEAD_OF_PASSWORD.items():
            value = getattr(self, name)
            if any(has_password(one) for one in ([value] if isinstance(value, str) else value or ())):
                raise ValueError(
                    f"{_flag(name)} holds a password, which would be written down: "
                    f"leave it out, and {instead}"
                )

    def _check_numbers(self) -> None:
        for name in (
            "trials",
            "max_epochs",
            "image_size",
            "concurrent",
            "workers_per_trial",
            "cpus_per_trial",
            "patience",
            "max_params",
            "max_latency_ms",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{_flag(name)} must be positive, got {value}")
        for name in ("gpus_per_trial", "cache_gb", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{_flag(name)} must not be negative, got {value}")
        self._check_gpus()

    def _check_gpus(self) -> None:
        gpus, workers = self.gpus_per_trial or 0, self.num_workers
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"--gpus-per-trial above 1 must be a whole number, got {gpus:g}")
        if workers > 1 and 0 < gpus < workers:
            raise ValueError(
                f"--gpus-per-trial {gpus:g} is less than one GPU for each of {workers} workers, which cannot "
                f"share one: pass --gpus-per-trial {workers}, or fewer --workers-per-trial"
            )
        if gpus > workers:
            raise ValueError(
                f"--gpus-per-trial {gpus:g} is more than --workers-per-trial {workers} can use, one each: "
                "leave --workers-per-trial out to have as many workers as GPUs"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def parse_duration(text: str) -> float:
    """Seconds of "2h", "90m", "45s", "1h30m" or a plain number of seconds."""
    match = _DURATION.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"--time-budget must be a duration like 2h, 90m or 45s, got {text!r}")
    return total


def absolute_sqlite(url: str) -> str:
    """The URL of a database; an SQLite file's path no longer depends on the current directory."""
    parts = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/?:][^?]*)(\?.*)?", url, flags=re.IGNORECASE)
    return f"{parts[1].lower()}{Path(parts[2]).absolute()}{parts[3] or ''}" if parts else url


def _hint(name: str, choices: Iterable[str]) -> str:
    near = did_you_mean(name, choices)
    return f"; {near}" if near else ""


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"--{name} must be one of {', '.join(choices)}, got {value!r}{_hint(value, choices)}"
        )


def _is_cost(metric: str) -> bool:
    return metric.endswith(("_loss", "_seconds", "_gb", "parameters"))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _cache_dir(given: Path | None) -> Path:
    default = os.environ.get("UNFREEZE_CACHE") or Path("~/.cache/unfreeze")
    return Path(given or default).expanduser().absolute()


def _weights_path(weights: str) -> str:
    path = Path(weights).expanduser().absolute()
    if not path.exists():
        raise ValueError(
            f"--weights must be auto, random, or an existing file or folder, got {weights!r}"
            f"{_hint(weights, WEIGHTS)}"
        )
    return str(path)


def _data_name(data: str) -> str:
    return Path(data).stem if data.lower().endswith(".csv") else Path(data).name or "data"
