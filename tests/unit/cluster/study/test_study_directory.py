"""Opening a study: creation, continuation, refusal, and the lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cluster.study import lock as study_lock
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from cluster.study.lock import acquire_lock
from contract.study_layout import RunOutcome

FACTS: dict[str, Any] = {
    "space_table": [{"name": "x", "values": "0..1"}],
    "data": {"source": "digits", "fingerprint": "abc", "num_train": 7, "num_val": 2, "num_test": 1},
    "image_size": 32,
    "max_epochs": 4,
}


def make_config(tmp_path: Path, **flags: Any) -> StudyConfig:
    return StudyConfig(space="demo", data="digits", runs_dir=tmp_path, **flags)


def test_another_fit_or_scale_of_deep_images_is_refused(tmp_path: Path) -> None:
    before = FACTS | {"fit": None, "deep_range": [0.0, 4095.0, 0.0, 1.0]}
    open_study(make_config(tmp_path), facts=before).close()
    changed = before | {"fit": "pad", "deep_range": [0.0, 999.0, 0.0, 1.0]}

    with pytest.raises(ValueError, match=r"fit \(None -> pad\); deep_range \(\[0\.0, 4095"):
        open_study(make_config(tmp_path), facts=changed)
    open_study(make_config(tmp_path), facts=before).close()


def test_a_study_of_before_there_was_a_fit_is_continued(tmp_path: Path) -> None:
    open_study(make_config(tmp_path), facts=FACTS).close()

    study = open_study(make_config(tmp_path), facts=FACTS | {"fit": None, "deep_range": []})
    study.close()

    assert study.resumed


def test_a_new_study_says_what_it_is(tmp_path: Path) -> None:
    study = open_study(make_config(tmp_path), facts=FACTS)
    study.begin()
    study.end(RunOutcome.FINISHED)
    study.close()

    info = json.loads((tmp_path / "demo-digits" / "study.json").read_text())
    assert not study.resumed
    assert (info["study"], info["metric"], info["direction"]) == ("demo-digits", "val_accuracy", "maximize")
    assert info["versions"]["optuna"]
    assert info["status"] == "finished"


def test_the_same_command_continues_the_study(tmp_path: Path) -> None:
    open_study(make_config(tmp_path), facts=FACTS).close()
    created = json.loads((tmp_path / "demo-digits" / "study.json").read_text())["created"]

    study = open_study(make_config(tmp_path, trials=99, scheduler="none"), facts=FACTS)
    study.close()

    assert study.resumed
    assert study.info["created"] == created
    assert study.info["flags"]["trials"] == 99


def test_a_study_that_was_to_show_no_photo_keeps_to_it(tmp_path: Path) -> None:
    path = tmp_path / "demo-digits" / "study.json"
    open_study(make_config(tmp_path), facts=FACTS).close()
    assert json.loads(path.read_text())["no_images"] is False

    open_study(make_config(tmp_path, no_images=True), facts=FACTS).close()  # finished, as nothing begins
    asked = json.loads(path.read_text())
    study = open_study(make_config(tmp_path), facts=FACTS)
    study.begin()
    study.close()

    assert asked["no_images"] is True and asked["flags"]["no_images"] is False
    assert json.loads(path.read_text())["no_images"] is True


def test_continuing_with_other_settings_lists_what_differs(tmp_path: Path) -> None:
    open_study(make_config(tmp_path), facts=FACTS).close()
    other = FACTS | {"image_size": 64, "data": FACTS["data"] | {"fingerprint": "xyz"}}

    with pytest.raises(ValueError, match="other settings") as error:
        open_study(make_config(tmp_path, seed=3), facts=other)

    assert "seed (0 -> 3)" in str(error.value)
    assert "image_size (32 -> 64)" in str(error.value)
    assert "data (digits, 10 images, abc -> digits, 10 images, xyz)" in str(error.value)
    assert "--study" in str(error.value)
    open_study(make_config(tmp_path), facts=FACTS).close()  # the refusal left no lock behind


def test_a_continued_study_keeps_its_number_of_probes_unless_another_is_asked_for(tmp_path: Path) -> None:
    open_study(make_config(tmp_path), facts=FACTS | {"num_probes": 24}).close()

    study = open_study(make_config(tmp_path), facts=FACTS | {"num_probes": 0})
    study.close()
    open_study(make_config(tmp_path, probes=24), facts=FACTS).close()

    assert study.info["num_probes"] == 24
    with pytest.raises(ValueError, match=r"probes \(24 -> 48\)"):
        open_study(make_config(tmp_path, probes=48), facts=FACTS)


def test_a_study_from_before_there_were_probes_has_none(tmp_path: Path) -> None:
    open_study(make_config(tmp_path), facts=FACTS).close()

    study = open_study(make_config(tmp_path), facts=FACTS | {"num_probes": 24})
    study.close()

    assert study.info["num_probes"] == 0


@pytest.mark.parametrize("now", [("dropout", "max_epochs"), ("dropout", "epochs", "momentum")])
def test_a_study_of_a_version_with_other_hyperparameters_is_refused_and_the_version_is_named(
    tmp_path: Path, now: tuple[str, ...]
) -> None:
    facts = FACTS | {"config_defaults": {"dropout": 0.0, "epochs": 10}}
    open_study(make_config(tmp_path), facts=facts).close()
    path = tmp_path / "demo-digits" / "study.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info |= {"versions": info["versions"] | {"unfreeze": "0.0.9"}, "git_revision": "0123456789abcdef"}
    path.write_text(json.dumps(info), encoding="utf-8")

    with pytest.raises(ValueError, match=r"made by unfreeze 0\.0\.9 \(git 0123456789ab\)") as error:
        open_study(make_config(tmp_path), facts=FACTS | {"config_defaults": dict.fromkeys(now, 0)})

    assert "--study NAME" in str(error.value)
    assert "check out that revision" in str(error.value)
    assert "\n" not in str(error.value)
    open_study(make_config(tmp_path), facts=facts).close()  # by the same version it is continued


def test_a_study_says_which_version_of_the_project_made_it(tmp_path: Path) -> None:
    study = open_study(make_config(tmp_path), facts=FACTS)
    study.close()

    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))
    assert study.info["versions"]["unfreeze"] == project["project"]["version"]


def test_a_storage_that_holds_the_name_already_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/shared.db"
    open_study(make_config(tmp_path / "one", storage=storage), facts=FACTS).close()

    with pytest.raises(ValueError, match="already holds a study named demo-digits"):
        open_study(make_config(tmp_path / "two", storage=storage), facts=FACTS)


@pytest.mark.skipif(not Path("/proc").exists(), reason="/proc cannot be written by anybody")
def test_a_runs_directory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="--runs-dir /proc/nowhere cannot be written"):
        open_study(make_config(Path("/proc/nowhere")), facts=FACTS)


def _hold_lock(path: Path) -> subprocess.Popen[str]:
    code = f"""
        import time
        from pathlib import Path
        from cluster.study.lock import acquire_lock
        acquire_lock(Path({str(path)!r}))
        print("held", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_refused_while_the_first_lives_and_let_in_when_it_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = _hold_lock(path)
    try:
        with pytest.raises(ValueError, match=f"being run by process {first.pid} on"):
            acquire_lock(path)
    finally:
        first.kill()
        first.wait()

    acquire_lock(path).release()


def test_a_process_number_given_anew_does_not_hold_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = acquire_lock(path)
    owner = json.loads(path.read_text())
    path.write_text(json.dumps(owner | {"started": "1", "token": "of the dead one"}))

    second = acquire_lock(path)

    lock.release()  # the first must not remove the second's claim
    assert json.loads(path.read_text())["token"] == second._owner["token"]
    second.release()
    assert path.read_text() == ""


def test_an_owner_on_another_host_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "token": "t"}))

    with pytest.raises(ValueError, match="on elsewhere"):
        acquire_lock(path)
    silent = time.time() - study_lock.STALE_SECONDS - 1
    os.utime(path, (silent, silent))
    acquire_lock(path).release()


@pytest.mark.parametrize("namespace", ["of another container", "of this host before it was restarted"])
def test_a_process_number_of_another_namespace_is_judged_by_its_heartbeat(
    tmp_path: Path, namespace: str
) -> None:
    path = tmp_path / "lock"
    owner = {"host": socket.gethostname(), "namespace": namespace, "pid": 1, "started": "1", "token": "t"}
    path.write_text(json.dumps(owner))

    with pytest.raises(ValueError, match="being run by process 1 on"):
        acquire_lock(path)
    silent = time.time() - study_lock.STALE_SECONDS - 1
    os.utime(path, (silent, silent))
    acquire_lock(path).release()


def test_a_lock_says_in_which_namespace_its_process_number_counts(tmp_path: Path) -> None:
    lock = acquire_lock(tmp_path / "lock")

    owner = json.loads((tmp_path / "lock").read_text(encoding="utf-8"))
    lock.release()

    assert owner["namespace"] == study_lock._process_namespace()


def test_a_driver_that_lost_its_study_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    lock = acquire_lock(path)

    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "token": "t"}))

    deadline = time.monotonic() + 60
    while not lock.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lock.lost


def test_a_lock_cut_short_by_a_crash_counts_as_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text('{"host": "he')

    acquire_lock(path).release()
