"""The study directory: created by the first run, checked and continued by every later one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.study.config import StudyConfig
from cluster.study.lock import StudyLock, acquire_lock
from cluster.study.passwords import without_password
from cluster.study.records import Records
from cluster.study.space_probe import space_differences
from contract.files import save_json
from contract.machine import count_cpus, count_gpus
from contract.project_version import OWN_NAME, own_version
from contract.study_layout import RunOutcome, StudyPaths, StudyStatus

PACKAGES = ("ray", "optuna", "torch", "torchvision", "timm", "mlflow", "numpy")
FIXED = ("space", "metrics", "directions", "image_size", "fit", "deep_range", "max_epochs", "weights", "seed")
"""Facts that must not change between the runs of a study, beside its data; the space may be widened."""
KILLED = "killed"
"""How a run ended that could not record its end."""
MOST_NAMES = 4
"""Most hyperparameters that an error lists."""


@dataclass(kw_only=True)
class Study:
    """An open study: its directory is locked, its database connected."""

    directory: Path
    info: dict[str, Any]
    """The content of study.json."""
    records: Records
    lock: StudyLock
    resumed: bool
    """The study existed before it was opened."""

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.directory)

    def begin(self, *, hardware: Mapping[str, Any] | None = None) -> None:
        """Record in study.json that a search begins, and under what conditions.

        `hardware` is the cluster's; None means that the search runs on this machine.
        """
        if hardware is not None:
            self.info["hardware"] = dict(hardware)
        self.info |= {"status": StudyStatus.RUNNING, "runs": [*self._runs_so_far(), self._this_run()]}
        self._write()

    def end(self, how: RunOutcome) -> None:
        """Record the end of the run that `begin` recorded."""
        *earlier, last = self.info["runs"]
        self.info |= {"status": how.study_status, "runs": [*earlier, last | {"ended": _now(), "how": how}]}
        self._write()

    def note_finished(self) -> None:
        """Record that the study is finished, where a killed run could not."""
        if self.info["status"] != StudyStatus.FINISHED:
            self.info |= {"status": StudyStatus.FINISHED, "runs": self._runs_so_far()}
            self._write()

    def _runs_so_far(self) -> list[dict[str, Any]]:
        """All runs of study.json; those without an end were killed."""
        return [run if run["how"] else run | {"how": KILLED} for run in self.info["runs"]]

    def _this_run(self) -> dict[str, Any]:
        names = ("flags", "versions", "git_revision", "hardware")
        described: dict[str, Any] = {name: self.info[name] for name in names}
        return {"started": _now(), "ended": None, "how": None} | described

    def _write(self) -> None:
        save_json(self.paths.facts, self.info)

    def close(self) -> None:
        self.records.close()
        self.lock.release()


def open_study(config: StudyConfig, *, facts: Mapping[str, Any]) -> Study:
    """Create the study, or continue it.

    Args:
        facts: what study.json says beside the flags: space_table, space_fixed, config_defaults, data with its
            fingerprint, data_change (how the images differ from data.csv), image_size, max_epochs and more.

    Raises:
        ValueError: the study exists with other settings or hyperparameters, runs elsewhere, or its directory
            cannot be written.
    """
    paths = StudyPaths(config.directory)
    _make_writable(paths)
    lock = acquire_lock(paths.lock)
    try:
        wanted = _describe(config, facts)
        resumed = paths.facts.exists()
        before = _read(paths) if resumed else {}
        info = _continue(before, wanted) if resumed else wanted
        info.pop("data_change", None)
        if not resumed:
            save_json(paths.facts, info)
        elif info["no_images"] and not before.get("no_images"):
            # At once, since a finished study writes nothing more, and its page must be made anew.
            save_json(paths.facts, before | {"no_images": True})
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
    return Study(directory=paths.directory, info=info, records=records, lock=lock, resumed=resumed)


def recorded_weights(directory: Path) -> dict[str, dict[str, Any]]:
    """Sources of the study's weights by backbone, as values of WeightsSource; empty before its first run."""
    return dict(_read_if_any(directory).get("backbone_weights", {}))


def recorded_flags(directory: Path) -> dict[str, Any]:
    """Flags with which the study last ran; empty before its first run."""
    return dict(_read_if_any(directory).get("flags", {}))


def recorded_plan(directory: Path) -> dict[str, Any]:
    """Flags that were planned for a time budget when the study began; empty where none was."""
    return dict(_read_if_any(directory).get("planned") or {})


def recorded_backbone_choice(directory: Path) -> list[dict[str, Any]]:
    """What --backbones auto measured and decided when the study began, a row a candidate; else empty."""
    return list(_read_if_any(directory).get("backbone_choice", ()))


def recorded_classes(directory: Path) -> tuple[str, ...]:
    """Class names of the study; empty before its first run."""
    return tuple(_read_if_any(directory).get("data", {}).get("classes", ()))


def recorded_warm_start(directory: Path) -> list[dict[str, Any]]:
    """Configurations that the study took over from earlier ones; empty before its first run."""
    return list(_read_if_any(directory).get("warm_start", ()))


def _read_if_any(directory: Path) -> dict[str, Any]:
    paths = StudyPaths(directory)
    return _read(paths) if paths.facts.exists() else {}


def _read(paths: StudyPaths) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(paths.facts.read_text(encoding="utf-8"))
    return info


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
        "no_images": config.no_images,
        "storage": without_password(config.storage_url, whole=True),
        "tracking_uri": config.tracking_uri,
        "status": StudyStatus.NEW,
        "runs": [],
    }
    if config.address is None:  # a cluster's is added once its nodes have been asked
        info["hardware"] = {"cpus": count_cpus(), "gpus": count_gpus(), "machine": platform.machine()}
    # Through JSON and back, so that it compares with the content of study.json, whose tuples are lists.
    described: dict[str, Any] = json.loads(json.dumps(info | dict(facts)))
    return described


def _continue(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The content of study.json when the study of `old` is continued as `new`.

    Raises:
        ValueError: trials of the two could not be compared.
    """
    _check_hyperparameters(old, new)
    if changes := _find_changes(old, new):
        raise ValueError(
            f"study {old['study']} exists with other settings: {'; '.join(changes)}. "
            "Set them back to continue it, or start another one with --study NAME"
        )
    kept = {name: old[name] for name in ("created", "warm_start", "status", "runs") if old.get(name)}
    kept["num_probes"] = old.get("num_probes", 0)
    # Photos that were to stay private do not appear because a later line forgot the flag.
    kept["no_images"] = bool(old.get("no_images") or new.get("no_images"))
    # Weights that only a wider search needed stay on record.
    weights = old.get("backbone_weights", {}) | new.get("backbone_weights", {})
    return old | new | kept | {"backbone_weights": weights}


def _check_hyperparameters(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that the version that last ran the study has the same hyperparameters as this one.

    Raises:
        ValueError: it has others, so that its trials mean nothing here; the message names the version.
    """
    before, now = old.get("config_defaults") or {}, new.get("config_defaults") or {}
    if before.keys() == now.keys():
        return
    here = {"versions": new.get("versions"), "git_revision": new.get("git_revision")}
    raise ValueError(
        f"study {old['study']} was made by {name_version(old)}, whose hyperparameters are not those of "
        f"{name_version(here)} (only there: {_list_names(before.keys() - now.keys())}; "
        f"only here: {_list_names(now.keys() - before.keys())}): start another one with --study NAME"
        f"{', or check out that revision to continue it' if old.get('git_revision') else ''}"
    )


def name_version(info: Mapping[str, Any]) -> str:
    """The version and revision of unfreeze that wrote study.json, as far as it says."""
    version, revision = (info.get("versions") or {}).get(OWN_NAME), info.get("git_revision")
    known = [OWN_NAME, *([version] if version else []), *([f"(git {revision[:12]})"] if revision else [])]
    return " ".join(known) if len(known) > 1 else f"another version of {OWN_NAME}"


def _list_names(names: Iterable[str]) -> str:
    first, rest = sorted(names)[:MOST_NAMES], sorted(names)[MOST_NAMES:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "") or "none"


def _find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that must not change and did, "name (before -> now)" each."""
    changes = [
        f"{name} ({old.get(name)} -> {new.get(name)})"
        for name in FIXED
        if (old.get(name) or None)
        != (new.get(name) or None)  # a study of before has no fit and no deep_range
    ]
    asked, before = new["flags"]["probes"], old.get("num_probes", 0)
    if asked not in (None, before):
        changes.append(f"probes ({before} -> {asked})")
    if old.get("space") == new.get("space"):  # the table of another space differs anyway
        changes += space_differences(old, new)
    data_before, data_now = old.get("data", {}), new.get("data", {})
    if data_before.get("fingerprint") != data_now.get("fingerprint"):
        what = new.get("data_change")
        difference = f": {what}" if what else ""
        changes.append(f"data ({_data_line(data_before)} -> {_data_line(data_now)}{difference})")
    changes += _synthetic_change(data_before.get("synthetic"), data_now.get("synthetic"))
    weights_before, weights_now = old.get("backbone_weights", {}), new.get("backbone_weights", {})
    return changes + [
        f"weights of {name} ({_weights_line(weights_before[name])} -> {_weights_line(source)})"
        for name, source in weights_now.items()
        if name in weights_before and weights_before[name]["digest"] != source["digest"]
    ]


def _synthetic_change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """The change of --synthetic, if its images are others; where they lie does not matter."""
    if (before or {}).get("fingerprint") == (now or {}).get("fingerprint"):
        return []
    return [f"synthetic ({_synthetic_line(before)} -> {_synthetic_line(now)})"]


def _synthetic_line(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "none"
    return f"{found['source']}, {sum(found['images'].values())} images, {found['fingerprint'][:8]}"


def _weights_line(source: Mapping[str, Any]) -> str:
    return f"{source['kind']} {source['location']}, sha256 {source['digest'][:12]}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _data_line(data: Mapping[str, Any]) -> str:
    num = sum(data.get(f"num_{split}", 0) for split in ("train", "val", "test"))
    notes = [note["text"] for note in data.get("notes", ()) if note.get("kind") in ("corrected", "renamed")]
    return ", ".join((str(data.get("source")), f"{num} images", *notes, str(data.get("fingerprint"))[:8]))


def _make_writable(paths: StudyPaths) -> None:
    try:
        paths.trials.mkdir(parents=True, exist_ok=True)
        probe = paths.write_probe(os.getpid())
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--runs-dir {paths.directory.parent} cannot be written ({error.strerror}): pass another one"
        ) from None


def _versions() -> dict[str, str]:
    """Versions of this project, of Python and of the libraries that results depend on."""
    found = {OWN_NAME: own_version()}
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
