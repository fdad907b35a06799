"""A driver that was silent for too long gives up by itself, and the database refuses what it writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from cluster.study import lock as study_lock
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from cluster.study.lock import LOST_SECONDS, StudyLock, acquire_lock
from cluster.study.records import EpochRecord, NewTrial, Records, TakenOver
from contract.messages import EpochDecision


class Share:
    """A stand-in for the lock file's access that fails or hangs while the test wants it to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = self.hanging = False
        self.attempts = 0
        self.back = threading.Event()
        self._locked = study_lock._locked
        monkeypatch.setattr(study_lock, "_locked", self._open)
        monkeypatch.setattr(study_lock, "HEARTBEAT_SECONDS", 0.005)

    @contextmanager
    def _open(self, path: Path) -> Iterator[int]:
        self.attempts += 1
        if self.hanging:
            self.back.wait(10)
        if self.broken:
            raise OSError(116, "Stale file handle")
        with self._locked(path) as file:
            yield file

    def wait_for_attempts(self, num: int) -> None:
        """Give the heartbeat's thread the turns it needs; the 10 s only end a test that fails."""
        until, give_up = self.attempts + num, time.monotonic() + 10
        while self.attempts < until:
            assert time.monotonic() < give_up, "the heartbeat has stopped"
            time.sleep(0.002)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Share:
    return Share(monkeypatch)


def make_lock(path: Path, clock: Clock) -> StudyLock:
    owner = {"host": "here", "pid": 1, "started": "1", "token": "mine"}
    path.write_text('{"host": "here", "pid": 1, "started": "1", "token": "mine"}')
    return StudyLock(path, owner, clock=clock)


def test_the_heartbeat_survives_a_share_that_fails_for_a_while(tmp_path: Path, share: Share) -> None:
    clock = Clock()
    lock = make_lock(tmp_path / "lock", clock)
    share.broken = True
    share.wait_for_attempts(3)
    clock.seconds = LOST_SECONDS - 1
    assert lock.lost is None

    share.broken = False
    share.wait_for_attempts(3)
    clock.seconds += LOST_SECONDS - 1

    assert lock.lost is None
    lock.release()


def test_a_driver_gives_up_when_its_heartbeat_fails_for_too_long(tmp_path: Path, share: Share) -> None:
    clock = Clock()
    lock = make_lock(tmp_path / "lock", clock)
    share.broken = True
    share.wait_for_attempts(2)
    clock.seconds = LOST_SECONDS + 1

    assert lock.lost is not None
    assert "could not be renewed for 10 minutes" in lock.lost
    assert "run the same command to continue" in lock.lost
    lock.release()  # without an error, although the share still fails


def test_a_driver_gives_up_when_its_heartbeat_hangs(tmp_path: Path, share: Share) -> None:
    clock = Clock()
    lock = make_lock(tmp_path / "lock", clock)
    share.hanging = True
    share.wait_for_attempts(1)
    clock.seconds = LOST_SECONDS + 1

    assert lock.lost is not None
    share.back.set()
    lock.release()


def test_a_driver_that_was_taken_over_says_so(tmp_path: Path, share: Share) -> None:
    lock = make_lock(tmp_path / "lock", Clock())
    (tmp_path / "lock").write_text('{"host": "there", "pid": 2, "started": "1", "token": "theirs"}')
    share.wait_for_attempts(1)
    lock._thread.join(10)

    assert lock.lost == "another process has taken this study over; it goes on there"
    lock.release()
    assert "theirs" in (tmp_path / "lock").read_text()


def make_records(tmp_path: Path, *, new: bool) -> Records:
    url = f"sqlite:///{tmp_path}/study.db"
    return Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=new)


def make_trial(number: int) -> NewTrial:
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    trial.number = number
    return NewTrial(trial=trial)


def make_epoch(epoch: int) -> EpochRecord:
    metrics = {"val_accuracy": 0.5}
    decision = EpochDecision.CONTINUE
    return EpochRecord(trial=0, epoch=epoch, attempt=1, metrics=metrics, arrival=1.0, decision=decision)


def test_the_database_takes_nothing_from_a_driver_that_was_taken_over(tmp_path: Path) -> None:
    first = make_records(tmp_path, new=True)
    first.take_over("first")
    first.record(new=[make_trial(0)], epochs=[make_epoch(1)])
    second = make_records(tmp_path, new=False)
    second.take_over("second")

    with pytest.raises(TakenOver, match="taken this study over"):
        first.record(new=[make_trial(1)], epochs=[make_epoch(2)])
    second.record(epochs=[make_epoch(3)])

    (trial,) = second.load()
    assert set(trial.epochs) == {1, 3}
    first.close()
    second.close()


def test_studies_in_one_database_have_a_driver_each(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    both = [
        Records(url, study=name, directions=["maximize"], metric="val_accuracy", new=True) for name in "ab"
    ]
    for records, token in zip(both, ("one", "two"), strict=True):
        records.take_over(token)

    for records in both:
        records.record(new=[make_trial(0)])
        assert len(records.load()) == 1
        records.close()


def test_an_opened_study_fences_the_driver_before_it(tmp_path: Path) -> None:
    config = StudyConfig(space="demo", data="digits", runs_dir=tmp_path)
    facts = {"data": {"fingerprint": "abc"}, "image_size": 32, "max_epochs": 4}
    first = open_study(config, facts=facts)
    first.records.record(new=[make_trial(0)])
    (first.directory / "lock").write_text("")  # what another host finds after a minute without a heartbeat

    second = open_study(config, facts=facts)

    with pytest.raises(TakenOver):
        first.records.record(new=[make_trial(1)])
    second.records.record(new=[make_trial(1)])
    second.close()
    first.close()


def test_acquiring_the_lock_gives_every_driver_a_token_of_its_own(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(3):
        lock = acquire_lock(tmp_path / "lock")
        tokens.add(lock.token)
        lock.release()

    assert len(tokens) == 3


def test_a_driver_that_was_stopped_by_ctrl_z_for_hours_still_has_its_study(
    tmp_path: Path, share: Share
) -> None:
    clock = Clock()
    lock = make_lock(tmp_path / "lock", clock)
    share.wait_for_attempts(2)
    clock.seconds += 100 * LOST_SECONDS  # the heartbeat's thread slept, too

    assert lock.lost is None
    lock.release()
