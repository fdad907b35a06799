"""Kills a running search at random moments and continues it with the same command."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
HOLDERS = ("ray::Trial", "ray::Toy", "ray::DistributedTrial")


class Chaos:
    """Runs one study's command, and kills its processes at random moments."""

    def __init__(self, arguments: Sequence[str], *, database: Path, cache_dir: Path, seed: int) -> None:
        self.arguments = [sys.executable, *arguments]
        self.database = database
        self.output = database.parent.parent / f"{database.parent.name}.log"
        self.dice = random.Random(seed)
        self.environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "UNFREEZE_CACHE": str(cache_dir)}
        self.driver: subprocess.Popen[bytes] | None = None
        self.recorded: set[tuple[int, int]] = set()
        """Trial and epoch of each result that was in the database at a kill."""

    def run(self, kills: Sequence[str] = (), *, epochs_between: int = 3) -> int:
        """Run to the end through these kills (driver | worker | everything), and give the last exit code."""
        self._start()
        for kind in kills:
            num = self._count("epochs") + self.dice.randint(1, epochs_between)
            self._wait_for("epochs", num, patience=PATIENCE_SECONDS)
            time.sleep(self.dice.uniform(0, 0.2))  # somewhere in an epoch
            self._kill(kind)
            self.recorded |= set(query(self.database, "SELECT trial, epoch FROM epochs"))
            if kind != "worker":
                self._start()
        assert self.driver is not None
        return self.driver.wait(timeout=10 * PATIENCE_SECONDS)

    def search(self, num_trials: int) -> None:
        """Run until so many trials have ended, and end the command before it makes answer and report."""
        self._start()
        ended = "trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
        self._wait_for(ended, num_trials, patience=10 * PATIENCE_SECONDS)
        self.close()

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self._kill("everything")

    def _start(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as log:
            self.driver = subprocess.Popen(
                self.arguments, stdout=log, stderr=log, env=self.environment, cwd=REPOSITORY
            )

    def _kill(self, kind: str) -> None:
        assert self.driver is not None
        assert self.driver.poll() is None, f"it ended before it was killed:\n{self.output.read_text()}"
        if kind == "worker":
            self.dice.choice(self._wait_for_workers()).send_signal(signal.SIGKILL)
            return
        family = psutil.Process(self.driver.pid).children(recursive=True)
        self.driver.kill()
        self.driver.wait()
        for process in family if kind == "everything" else ():
            if process.is_running():
                process.kill()

    def _wait_for_workers(self) -> list[psutil.Process]:
        """Ray's processes of this driver that hold a trial, or lead one of several workers."""
        assert self.driver is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            family = psutil.Process(self.driver.pid).children(recursive=True)
            workers = [process for process in family if _title(process).startswith(HOLDERS)]
            if workers:
                return workers
            time.sleep(0.05)
        raise AssertionError(f"no worker came up:\n{self.output.read_text()}")

    def _wait_for(self, rows: str, num: int, *, patience: float) -> None:
        assert self.driver is not None
        deadline = time.monotonic() + patience
        while self._count(rows) < num:
            alive = self.driver.poll() is None and time.monotonic() < deadline
            assert alive, f"it ended, or hung, before {num} {rows}:\n{self.output.read_text()}"
            time.sleep(0.02)

    def _count(self, rows: str) -> int:
        try:
            return int(query(self.database, f"SELECT count(*) FROM {rows}")[0][0])
        except sqlite3.OperationalError:
            return 0  # not there yet


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


def attributes(database: Path, key: str) -> dict[int, Any]:
    sql = f"SELECT number, value_json FROM trial_user_attributes NATURAL JOIN trials WHERE key = '{key}'"
    return {number: json.loads(value) for number, value in query(database, sql)}


def snapshot(database: Path, metric: str = "val_accuracy") -> dict[int, dict[str, Any]]:
    """What no accident may change of each trial: configuration, state, value, curve, decisions."""
    trials: dict[int, dict[str, Any]] = {}
    configs, outcomes = attributes(database, "config"), attributes(database, "outcome")
    for trial_id, number, state in query(database, "SELECT trial_id, number, state FROM trials"):
        assert number not in trials, f"trial {number} is there twice"
        values = query(database, f"SELECT value FROM trial_values WHERE trial_id = {trial_id}")
        epochs = query(
            database, f"SELECT epoch, metrics, decision FROM epochs WHERE trial = {number} ORDER BY epoch"
        )
        trials[number] = {
            "config": configs.get(number),
            "state": state,
            "outcome": outcomes.get(number),
            "values": values,
            "curve": [(epoch, json.loads(metrics)[metric], decision) for epoch, metrics, decision in epochs],
        }
    return trials
