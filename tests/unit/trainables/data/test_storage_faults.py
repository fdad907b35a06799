"""Transient faults of a disk or a share: a trial waits for them; one that waited in vain is tried again."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.files import TRANSIENT, find_os_error, temporary_names
from contract.messages import Reason
from contract.study_layout import TrialPaths
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings, write_images
from trainables.data import storage_faults
from trainables.data.storage_faults import StorageFault, wait_out_faults
from trainables.images.decoding import decode_files
from trainables.training import checkpoints
from trainables.training.checkpoints import load_checkpoint, save_checkpoint

FULL = Path("/dev/full")
"""A device on which every write fails as on a full disk."""
STATE = {"weights": torch.arange(100_000.0)}

needs_full_disk = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


def save_tensors(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(STATE, file)


def save_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, probabilities=np.zeros(100_000))


def save_text(path: Path) -> None:
    path.write_text("1" * 100_000)


def on_full_disk(position: int) -> Callable[..., Any]:
    """Stands in for `temporary_names`: the name at this position leads to a full disk."""

    @contextmanager
    def names_on_full_disk(*paths: Path) -> Iterator[tuple[Path, ...]]:
        with temporary_names(*paths) as names:
            names[position].symlink_to(FULL)
            yield names

    return names_on_full_disk


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now, self.naps = 0.0, 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now, self.naps = self.now + seconds, self.naps + 1


def failing(number: int, *, times: int, result: str = "read") -> Callable[[], str]:
    """Work that fails for the storage a given number of times, then succeeds."""
    left = [times]

    def work() -> str:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), "/share/file")
        return result

    return work


@pytest.mark.parametrize("number", sorted(TRANSIENT))
def test_a_passing_fault_is_waited_for(number: int) -> None:
    clock = Clock()

    result = wait_out_faults(failing(number, times=3), clock=clock, sleep=clock.sleep)

    assert result == "read"
    assert clock.naps == 3


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENETUNREACH])
def test_an_error_that_waiting_does_not_change_is_raised_at_once(number: int) -> None:
    clock = Clock()

    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        wait_out_faults(failing(number, times=1), clock=clock, sleep=clock.sleep)

    assert not isinstance(raised.value, StorageFault)
    assert clock.naps == 0


@pytest.mark.parametrize(("number", "reason"), [(errno.EIO, "data"), (errno.EDQUOT, "disk full")])
def test_the_waiting_ends_after_ten_minutes_in_a_fault_that_interrupts_the_lease(
    number: int, reason: str
) -> None:
    clock = Clock()

    with pytest.raises(StorageFault) as raised:
        wait_out_faults(failing(number, times=10**6), clock=clock, sleep=clock.sleep)

    assert clock.now == pytest.approx(600, abs=3)
    assert raised.value.interrupts_lease == reason
    again = pickle.loads(pickle.dumps(raised.value))  # as it passes through Ray
    assert (again.errno, again.strerror) == (number, raised.value.strerror)


def test_what_was_waited_for_in_vain_is_not_waited_for_again_further_out() -> None:
    clock = Clock()

    def inner() -> str:
        return wait_out_faults(failing(errno.EIO, times=10**6), clock=clock, sleep=clock.sleep)

    with pytest.raises(StorageFault):
        wait_out_faults(inner, clock=clock, sleep=clock.sleep)

    assert clock.now < 610


def break_reads(monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, times: int) -> None:
    """Let reading files of this name fail a given number of times; other files are read."""
    whole, left = Path.read_bytes, [times]

    def read(path: Path) -> bytes:
        if path.name == name and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_passing_fault_while_an_image_is_read_does_not_drop_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(storage_faults, "PAUSE_SECONDS", 0.0)
    image = write_images(tmp_path, images_per_class=1) / "red" / "00.png"
    break_reads(monkeypatch, "00.png", number, times=2)

    pixels, [fact] = decode_files([image], 16, "crop")

    assert fact.ok
    assert pixels.any()


def test_an_image_that_stays_unreadable_for_a_passing_fault_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "PATIENCE_SECONDS", 0.0)
    image = write_images(tmp_path, images_per_class=1) / "red" / "00.png"
    break_reads(monkeypatch, "00.png", errno.EMFILE, times=10**6)

    with pytest.raises(StorageFault, match=r"Too many open files: .*00\.png"):
        decode_files([image], 16, "crop")


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_taken_for_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = TrialPaths(tmp_path)
    save_checkpoint(paths, STATE | {"epoch": 7}, attempt=1)
    whole, left = Path.open, [1]

    def fail_once(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == paths.checkpoint.name and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        load_checkpoint(paths)

    state = load_checkpoint(paths)

    assert state is not None
    assert state["epoch"] == 7


def test_a_share_that_is_gone_while_a_trial_is_built_ends_the_lease_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path)
    monkeypatch.setattr(storage_faults, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("trainables.trial_images.load_splits", raise_not_connected)
    [run] = start_trials(settings, make_lease())

    with pytest.raises(StorageFault, match="not connected"):
        run.step()


def raise_not_connected(*_: Any) -> None:
    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), "/share/data.csv")


@needs_full_disk
@pytest.mark.parametrize("save", [save_tensors, save_arrays, save_text])
def test_a_full_disk_is_recognised_in_whatever_a_library_makes_of_it(save: Callable[[Path], None]) -> None:
    with pytest.raises((OSError, RuntimeError)) as raised:
        save(FULL)

    assert find_os_error(raised.value) is not None


def test_another_error_is_no_full_disk_and_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        wait_out_faults(lambda: save_text(tmp_path / "missing" / "file"))

    assert find_os_error(raised.value) is None


@needs_full_disk
def test_a_checkpoint_waits_for_room_and_the_one_before_it_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "PAUSE_SECONDS", 0.01)
    paths = TrialPaths(tmp_path)
    save_checkpoint(paths, STATE | {"epoch": 1}, attempt=1)
    found: list[Any] = []

    def save() -> None:
        is_full = not found  # the first time only
        monkeypatch.setattr(checkpoints, "temporary_names", on_full_disk(0) if is_full else temporary_names)
        found.append(load_checkpoint(paths))
        save_checkpoint(paths, STATE | {"epoch": 2}, attempt=1)

    wait_out_faults(save)

    newest = load_checkpoint(paths)
    assert [state["epoch"] for state in found] == [1, 1]
    assert newest is not None
    assert newest["epoch"] == 2
    assert torch.equal(newest["weights"], STATE["weights"])


@needs_full_disk
def test_a_trial_that_waited_in_vain_does_not_fail_but_ends_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(storage_faults, "PAUSE_SECONDS", 0.01)
    settings = make_settings(tmp_path)
    monkeypatch.setattr(checkpoints, "temporary_names", on_full_disk(-1))
    [run] = start_trials(settings, make_lease(max_epochs=1))

    with pytest.raises(StorageFault, match="no space is left") as raised:
        run.step()

    assert raised.value.interrupts_lease is Reason.DISK_FULL
    assert not settings.trial_paths(0).weights.exists()
    monkeypatch.setattr(checkpoints, "temporary_names", temporary_names)
    [again] = start_trials(settings, make_lease(attempt=2, max_epochs=1))
    reports = again.step()
    assert [(report.epoch, report.outcome) for report in reports] == [(1, "complete")]
    assert settings.trial_paths(0).predictions.exists()
