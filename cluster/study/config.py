"""StudyConfig: every flag of tune.py, with its default, its documentation and its check."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from cluster import schedulers, searchers
from cluster.study.job_environment import CLUSTER_ADDRESS, DEFAULT_RUNS_DIR, in_job, job_runs_dir
from cluster.study.passwords import has_password, without_password
from contract.decoding import Fit
from contract.durations import parse_duration
from contract.environment import expand, usual_cache_dir
from contract.files import did_you_mean, is_text, printable
from contract.metrics import Direction, direction_of
from contract.sqlite_files import MOST_PATH_BYTES, sqlite_path, sqlite_url
from contract.study_layout import StudyPaths

WEIGHTS = ("auto", "random")
AUTO_BACKBONES = "auto"
"""Value of --backbones before the names of candidates that frozen features may rule out."""
AUTO_START = "auto"
"""Value of --warm-start that stands for all studies of the runs directory."""
BAD_IMAGES = ("skip", "refuse")
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_INSTEAD_OF_PASSWORD = {
    "tracking_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (PGPASSWORD for a PostgreSQL)",
    "data": "give it in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the like)",
    "weights": "pass a file",
    "warm_start": "pass names or directories of studies",
    "address": "set RAY_AUTH_TOKEN_PATH to the file with the cluster's token",
}
_STUDY_NAME = re.compile(r"(?!-)[^/\\\x00-\x1f\x7f\ud800-\udfff]*[^/\\\x00-\x20\x7f\ud800-\udfff]")
_UNFIT = re.compile(r"[\\\x00-\x1f\x7f\N{REPLACEMENT CHARACTER}]")
MOST_BYTES = 200
"""Most bytes of a study's name: file systems take 255, and temporary names are longer."""
MOST_DATA_BYTES = 120
"""Most bytes that the data's name adds to the study's default name."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The flags of tune.py, checked and resolved."""

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
    """Search these backbones only; with auto in front, or alone, those of them, or of the space's, that
    frozen features do not rule out [all of the space's]."""

    weights: str = "auto"
    """Pretrained weights: auto (packaged, local cache, then the hub), random, or a file or folder."""

    image_size: int | None = None
    """Side of the training images in pixels [the backbones' own]."""

    fit: Fit | None = None
    """How images become square: crop to the middle, squash, or pad on a grey ground [the backbones' own]."""

    metric: str = "val_accuracy"
    """What the search optimizes; several, comma-separated, give the best trade-offs between them."""

    searcher: str | None = None
    """Who proposes configurations: a file of cluster/searchers [guided with evidence, else tpe]."""

    scheduler: str | None = None
    """Who stops bad trials early: a file of cluster/schedulers [evidence up to 64 trials, else asha; with
    several metrics none]."""

    probes: int | None = None
    """Frozen heads judged on cached features before all else [8 for each of several backbones]."""

    patience: int | None = None
    """Stop when so many trials in a row have ended without a new best value [never]."""

    warm_start: tuple[str, ...] = ()
    """Try good configurations of earlier studies after the recipes: names in --runs-dir or directories, auto
    for all studies in --runs-dir, or FILE.json that python -m analysis portfolio wrote [none]."""

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
    """MLflow store or server [$MLFLOW_TRACKING_URI, else SQLite in the runs directory]."""

    group_by: str | None = None
    """What images share that must stay in one split: folder, a column, or a pattern like 'tile([0-9]+)'
    [copies only, and a table's column `group`]."""

    min_images: int | None = None
    """Leave out classes with fewer images; 1 trains on those that cannot be validated, too [refuse them]."""

    bad_images: str = "skip"
    """What to do with images that cannot be read: skip or refuse."""

    corrections: str | None = None
    """Relabel and drop images as this review file says, which python -m trainables check wrote [none]."""

    classes: str | None = None
    """Merge, rename and drop classes as this CSV says: class,name; an empty name drops, * is every class that
    is not listed [none]."""

    synthetic: str | None = None
    """Folder of synthetic images that train beside the real ones, as many as synthetic_share says: the --out
    of python -m trainables synthesize, or class folders [none]."""

    no_images: bool = False
    """Show no photo in the report and in MLflow; the study keeps to it from then on."""

    cache_dir: Path | None = None
    """Folder of decoded images and activations [$UNFREEZE_CACHE, else unfreeze in ~/.cache]."""

    cache_gb: float = 20.0
    """Most disk the cache may use, in GB: decoded images, activations and a bucket's copies together."""

    seed: int = 0
    """Every random choice of the study follows from it."""

    address: str | None = None
    """Join the Ray cluster at this address [a job's own cluster; else start Ray here]."""

    dry_run: bool = False
    """Check everything, say what would run, start nothing."""

    def __post_init__(self) -> None:
        self._check()
        for name, value in self._resolve().items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The study's name, which is never missing once the flags are resolved."""
        return self._study_name

    @property
    def directory(self) -> Path:
        """The study directory."""
        return self.runs_dir / self.name

    @property
    def storage_url(self) -> str:
        """SQLAlchemy URL of the study's database."""
        if self.storage is None:
            return sqlite_url(StudyPaths(self.directory).database)
        # SQLAlchemy would look for psycopg2, but psycopg 3 is installed.
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.storage, flags=re.IGNORECASE)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Objectives; schedulers and the ranking go by the first."""
        return tuple(name.strip() for name in self.metric.split(","))

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Direction of each objective.

        Raises:
            ValueError: one is no metric that trials report.
        """
        return tuple(direction_of(name) for name in self.metrics)

    @property
    def num_workers(self) -> int:
        """Processes that train one trial together; each uses at most one GPU."""
        if self.workers_per_trial is not None:
            return self.workers_per_trial
        return max(1, int(self.gpus_per_trial or 0))

    @property
    def gpus_per_worker(self) -> float | None:
        """GPUs of each worker; None means one if the machine has any."""
        return None if self.gpus_per_trial is None else self.gpus_per_trial / self.num_workers

    @property
    def time_budget_seconds(self) -> float | None:
        return None if self.time_budget is None else parse_duration(self.time_budget)

    def as_dict(self) -> dict[str, Any]:
        """The flags as plain values for study.json, without the database's password."""
        flags = asdict(self) | {"runs_dir": str(self.runs_dir), "cache_dir": str(self.cache_dir)}
        flags["storage"] = self.storage and without_password(self.storage, whole=True)
        return flags | {"backbones": list(self.backbones), "warm_start": list(self.warm_start)}

    def _check(self) -> None:
        """Check the flags as they were given.

        Raises:
            ValueError: one is wrong; the message names it and what to pass instead.
        """
        self._check_numbers()
        self._check_passwords()
        _check_choice("searcher", self.searcher or "tpe", searchers.names())
        self._check_metrics()
        _check_choice("scheduler", self.scheduler or "none", schedulers.names())
        if self.fit is not None:
            _check_choice("fit", self.fit, get_args(Fit))
        _check_choice("bad-images", self.bad_images, BAD_IMAGES)
        if self.time_budget is not None:
            parse_duration(self.time_budget)
        if self.weights not in WEIGHTS and not expand(self.weights).exists():
            raise ValueError(
                f"--weights must be auto, random, or an existing file or folder, got {self.weights!r}"
                f"{did_you_mean(self.weights, WEIGHTS, before='; ')}"
            )
        self._check_places()

    def _check_places(self) -> None:
        """Check the study's name and the folder that it goes to."""
        name = self._study_name
        if not _STUDY_NAME.fullmatch(name) or name in {".", ".."} or len(name.encode()) > MOST_BYTES:
            raise ValueError(
                f"--study must be a plain name without slashes, of at most {MOST_BYTES} bytes and without a "
                f"dash in front, got {name!r}"
            )
        path = os.fsencode(StudyPaths(expand(self.runs_dir) / name).database)
        if self.storage is None and len(path) > MOST_PATH_BYTES:
            raise ValueError(
                f"--runs-dir: the study's path has {len(path)} bytes, and SQLite takes {MOST_PATH_BYTES}: "
                "pass a shorter one, or a shorter --study name"
            )
        if not is_text(str(expand(self.runs_dir))):
            raise ValueError(
                f"--runs-dir {printable(self.runs_dir)} has bytes that are no UTF-8, which no database's URL "
                "can name: pass another one"
            )

    def _resolve(self) -> dict[str, Any]:
        """Values of all flags whose default, or whose path, depends on other flags or on this machine."""
        use_jobs_folder = in_job() and self.runs_dir == DEFAULT_RUNS_DIR
        runs_dir = job_runs_dir() if use_jobs_folder else expand(self.runs_dir)
        mlflow = StudyPaths(runs_dir / self._study_name).tracking_database
        return {
            "study": self._study_name,
            "runs_dir": runs_dir,
            "cache_dir": expand(self.cache_dir) if self.cache_dir else usual_cache_dir(),
            "data": self._data_here,
            "corrections": self.corrections and str(expand(self.corrections)),
            "classes": self.classes and str(expand(self.classes)),
            "synthetic": self.synthetic and str(expand(self.synthetic)),
            "weights": self.weights if self.weights in WEIGHTS else str(expand(self.weights)),
            "backbones": tuple(self.backbones),
            "warm_start": tuple(self.warm_start),
            "storage": self.storage and absolute_sqlite(self.storage),
            "tracking_uri": absolute_sqlite(
                self.tracking_uri or os.environ.get(TRACKING_VARIABLE) or sqlite_url(mlflow)
            ),
            # A job searches on its own cluster.
            "address": self.address or (CLUSTER_ADDRESS if in_job() else self.address),
        }

    @property
    def _study_name(self) -> str:
        return f"{self.space}-{_data_name(self._data_here)}" if self.study is None else self.study

    @property
    def _data_here(self) -> str:
        path = expand(self.data)
        return str(path) if path.exists() else self.data

    def _check_metrics(self) -> None:
        if not all(self.metrics) or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"--metric must be a name, or different names with commas, got {self.metric!r}")
        if len(self.metrics) > 1 and self.scheduler not in (None, "none"):
            raise ValueError(
                f"--scheduler {self.scheduler} judges by one metric and would stop trials that are best by "
                "another: with several use --scheduler none"
            )

    def _check_passwords(self) -> None:
        """Refuse passwords in flags that are written down; the database's is used, but never written."""
        for name, instead in _INSTEAD_OF_PASSWORD.items():
            value = getattr(self, name)
            told = _flag(name)
            if name == "tracking_uri" and not value:
                value, told = os.environ.get(TRACKING_VARIABLE), TRACKING_VARIABLE
            if any(has_password(one) for one in ([value] if isinstance(value, str) else value or ())):
                raise ValueError(
                    f"{told} holds a password, which would be written down: leave it out, and {instead}"
                )

    def _check_numbers(self) -> None:
        for name in (
            "trials",
            "max_epochs",
            "image_size",
            "min_images",
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
        for name in ("gpus_per_trial", "cache_gb", "seed", "probes"):
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


def absolute_sqlite(url: str) -> str:
    """The URL of a database, with the path of an SQLite file made absolute."""
    parts = re.fullmatch(r"(sqlite(?:\+\w+)?):///([^/?:][^?]*)(\?.*)?", url, flags=re.IGNORECASE)
    path = sqlite_path(url)
    if not parts or path is None or parts[2].startswith("file:"):
        return url
    return f"{parts[1].lower()}{sqlite_url(path.absolute()).removeprefix('sqlite')}{parts[3] or ''}"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(value, choices, before="; ")
        raise ValueError(f"--{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _data_name(data: str) -> str:
    """A name for a study's folder: the data's own, without what no folder or database can be called."""
    found = Path(data).stem if data.lower().endswith(".csv") else Path(data).name
    plain = _UNFIT.sub("_", printable(found)).strip() or "data"
    if len(plain.encode()) <= MOST_DATA_BYTES:
        return plain
    cut = plain.encode()[:MOST_DATA_BYTES].decode(errors="ignore").rstrip()
    return f"{cut}-{hashlib.sha256(os.fsencode(found)).hexdigest()[:8]}"
