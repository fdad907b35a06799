"""The study directory: created by the first run, checked and continued by every later one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.study.config import StudyConfig
from cluster.study.lock import StudyLock, acquire_lock
from cluster.study.passwords import without_password
from cluster.study.records import Records
from cluster.study.space_probe import space_differences
from contract.machine import count_cpus, count_gpus

PACKAGES = ("ray", "optuna", "torch", "torchvision", "timm", "mlflow", "numpy")
FIXED = ("space", "metrics", "directions", "image_size", "max_epochs", "weights", "seed")
"""What must not change between the runs of a study; with the data's fingerprint. The space may be widened."""


@dataclass(kw_only=True)
class Study:
    """An open study: its directory is locked, its database connected."""

    directory: Path
    info: dict[str, Any]
    """What study.json says."""
    records: Records
    lock: StudyLock
    resumed: bool

    def trial_directory(self, number: int) -> Path:
        return self.directory / "trials" / str(number)

    def begin(self, *, hardware: Mapping[str, Any] | None = None) -> None:
        """A search begins: study.json says so, and under what conditions; until then it stays as it was.

        `hardware` is the cluster's; without it the search runs on this machine.
        """
        if hardware is not None:
            self.info["hardware"] = dict(hardware)
        self.info |= {"status": "running", "runs": [*self._runs_so_far(), self._this_run()]}
        self._write()

    def end(self, status: str, *, how: str) -> None:
        """The run that `begin` noted is over: `status` is the study's, finished | stopped | failed."""
        *earlier, last = self.info["runs"]
        self.info |= {"status": status, "runs": [*earlier, last | {"ended": _now(), "how": how}]}
        self._write()

    def note_finished(self) -> None:
        """The records show a finished study; study.json is put right if a killed run left it behind."""
        if self.info["status"] != "finished":
            self.info |= {"status": "finished", "runs": self._runs_so_far()}
            self._write()

    def _runs_so_far(self) -> list[dict[str, Any]]:
        """A run that could not note its own end was killed."""
        return [run if run["how"] else run | {"how": "killed"} for run in self.info["runs"]]

    def _this_run(self) -> dict[str, Any]:
        names = ("flags", "versions", "git_revision", "hardware")
        described: dict[str, Any] = {name: self.info[name] for name in names}
        return {"started": _now(), "ended": None, "how": None} | described

    def _write(self) -> None:
        write_json(self.directory / "study.json", self.info)

    def close(self) -> None:
        self.records.close()
        self.lock.release()


def open_study(config: StudyConfig, *, facts: Mapping[str, Any]) -> Study:
    """Create the study, or continue it.

    `facts` are what only the caller knows: space_table, space_fixed, data (with its fingerprint), image_size,
    max_epochs, and whatever else study.json shall say.

    Raises:
        ValueError: the study exists with other settings, runs elsewhere, or its directory cannot be written.
    """
    directory = config.directory
    _make_writable(directory)
    lock = acquire_lock(directory / "lock")
    try:
        wanted = _describe(config, facts)
        path = directory / "study.json"
        resumed = path.exists()
        info = _continue(json.loads(path.read_text(encoding="utf-8")), wanted) if resumed else wanted
        if not resumed:
            write_json(path, info)
        records = Records(
            config.storage_url,
            study=config.name,
            directions=info["directions"],
            metric=config.metrics[0],
            new=not resumed,
        )
        records.take_over(lock.token)
    except BaseException:
        lock.release()
        raise
    return Study(directory=directory, info=info, records=records, lock=lock, resumed=resumed)


def recorded_weights(directory: Path) -> dict[str, dict[str, Any]]:
    """Where the study's backbones have their weights from, by backbone; empty before its first run."""
    path = directory / "study.json"
    if not path.exists():
        return {}
    recorded: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get(
        "backbone_weights", {}
    )
    return recorded


def write_json(path: Path, content: Any) -> None:
    """Write a file that others read: they see the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _describe(config: StudyConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    info: dict[str, Any] = {
        "study": config.name,
        "created": _now(),
        "space": config.space,
        "metric": config.metrics[0],
        "direction": config.directions[0],
        "metrics": config.metrics,
        "directions": config.directions,
        "flags": config.as_dict(),
        "versions": _versions(),
        "git_revision": _git_revision(),
        "weights": config.weights,
        "seed": config.seed,
        "storage": without_password(config.storage_url, whole=True),
        "tracking_uri": config.tracking_uri,
        "status": "new",
        "runs": [],
    }
    if config.address is None:  # a cluster's is added once its nodes have been asked
        info["hardware"] = {"cpus": count_cpus(), "gpus": count_gpus(), "machine": platform.machine()}
    # Through JSON and back: what is compared with study.json must look like study.json (tuples are lists).
    described: dict[str, Any] = json.loads(json.dumps(info | dict(facts)))
    return described


def _continue(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    changes = [
        f"{name} ({old.get(name)} -> {new.get(name)})" for name in FIXED if old.get(name) != new.get(name)
    ]
    if old.get("space") == new.get("space"):  # another space differs by nature: its name says it all
        changes += space_differences(old, new)
    data_before, data_now = old.get("data", {}), new.get("data", {})
    if data_before.get("fingerprint") != data_now.get("fingerprint"):
        changes.append(f"data ({_data_line(data_before)} -> {_data_line(data_now)})")
    weights_before, weights_now = old.get("backbone_weights", {}), new.get("backbone_weights", {})
    changes += [
        f"weights of {name} ({_weights_line(weights_before[name])} -> {_weights_line(source)})"
        for name, source in weights_now.items()
        if name in weights_before and weights_before[name]["digest"] != source["digest"]
    ]
    if changes:
        raise ValueError(
            f"study {old['study']} exists with other settings: {'; '.join(changes)}. "
            f"Set them back to continue it, or start another one with --study NAME{_maker_hint(old, new)}"
        )
    kept = {name: old[name] for name in ("created", "warm_start", "status", "runs") if old.get(name)}
    weights = {"backbone_weights": weights_before | weights_now}  # those of a narrower search stay known
    return old | new | kept | weights


def _maker_hint(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The revision that made the study, if another one continues it: there its settings may not differ."""
    revision = old.get("git_revision")
    if revision is None or revision == new.get("git_revision"):
        return ""
    return f", or check out git revision {revision[:12]}, which wrote it"


def _weights_line(source: Mapping[str, Any]) -> str:
    return f"{source['kind']} {source['location']}, sha256 {source['digest'][:12]}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _data_line(data: Mapping[str, Any]) -> str:
    num = sum(data.get(name, 0) for name in ("num_train", "num_val", "num_test"))
    return f"{data.get('source')}, {num} images, {str(data.get('fingerprint'))[:8]}"


def _make_writable(directory: Path) -> None:
    try:
        (directory / "trials").mkdir(parents=True, exist_ok=True)
        probe = directory / f".write-test.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--runs-dir {directory.parent} cannot be written ({error.strerror}): pass another one"
        ) from None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
