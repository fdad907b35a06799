"""A disk without room: a trial waits for some, and one that waited in vain is not lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_data import make_lease, make_settings
from trainables.lease import start_lease
from trainables.training import full_disk
from trainables.training.checkpoints import load_checkpoint, save_checkpoint
from trainables.training.full_disk import DiskFull, is_disk_full, write_patiently

FULL = Path("/dev/full")
"""The kernel's own full disk."""
STATE = {"weights": torch.arange(100_000.0)}

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


def save_tensors(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(STATE, file)


def save_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, probabilities=np.zeros(100_000))


def save_text(path: Path) -> None:
    path.write_text("1" * 100_000)


@pytest.mark.parametrize("save", [save_tensors, save_arrays, save_text])
def test_a_full_disk_is_recognised_in_whatever_a_library_makes_of_it(save: Callable[[Path], None]) -> None:
    with pytest.raises((OSError, RuntimeError)) as raised:
        save(FULL)

    assert is_disk_full(raised.value)


def test_another_error_is_no_full_disk_and_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_patiently(lambda: save_text(tmp_path / "missing" / "file"))

    assert not is_disk_full(raised.value)


def test_a_checkpoint_waits_for_room_and_the_one_before_it_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "PAUSE_SECONDS", 0.01)
    save_checkpoint(tmp_path, STATE | {"epoch": 1}, attempt=1)
    found: list[Any] = []

    def save() -> None:
        if not found:  # the disk is full the first time only: the symbolic link goes with the failed file
            (tmp_path / f".checkpoint.pt.{os.getpid()}.part").symlink_to(FULL)
        found.append(load_checkpoint(tmp_path))
        save_checkpoint(tmp_path, STATE | {"epoch": 2}, attempt=1)

    write_patiently(save)

    newest = load_checkpoint(tmp_path)
    assert [state["epoch"] for state in found] == [1, 1]
    assert newest is not None
    assert newest["epoch"] == 2
    assert torch.equal(newest["weights"], STATE["weights"])


def test_a_trial_that_waited_in_vain_does_not_fail_but_ends_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(full_disk, "PAUSE_SECONDS", 0.01)
    settings = make_settings(tmp_path)
    place = Path(settings.study_directory) / "trials" / "0"
    place.mkdir(parents=True)
    (place / ".predictions.npz").symlink_to(FULL)
    config = {"leases": [make_lease(epochs=1)], "settings": vars(settings)}

    with pytest.raises(DiskFull, match="no space is left"):
        start_lease(config)[0].step()

    (place / ".predictions.npz").unlink()
    config["leases"] = [make_lease(attempt=2, epochs=1)]
    reports = start_lease(config)[0].step()
    assert [(report["epoch"], report["outcome"]) for report in reports] == [(1, "complete")]
    assert (place / "predictions.npz").exists()
