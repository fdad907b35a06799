"""A host whose cable is pulled while it trains: the search goes on, nothing is lost or taken twice."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chaos import attributes, query, snapshot
from tests.integration.network_hosts import Hosts, can_make_hosts
from tests.tiny_data import write_images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root and iproute2"),
]
NUM_TRIALS, EPOCHS = 3, 8
CUT = 3


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(3, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_host_that_is_cut_off_loses_its_trial_to_another_and_is_not_believed_when_it_returns(
    tmp_path: Path, hosts: Hosts
) -> None:
    driver = hosts.run(1, search_line(tmp_path, hosts.address), log="search")
    database = tmp_path / "runs" / "cut" / "study.db"
    trial = wait_for_trial_on(hosts.name(CUT), database, driver, hosts)
    hosts.cut(CUT)
    cut_at = time.time()
    wait_for_second_attempt(trial, database, driver, hosts)
    hosts.mend(CUT)

    assert driver.wait(timeout=300) == 0, hosts.log("search").read_text()

    trials = snapshot(database)
    assert sorted(trials) == list(range(NUM_TRIALS))
    assert {one["outcome"] for one in trials.values()} == {"complete"}
    for number, one in trials.items():
        assert [epoch for epoch, _, _ in one["curve"]] == list(range(1, len(one["curve"]) + 1))
        assert one["curve"][-1][2] == "complete", number
        assert (database.parent / "trials" / str(number) / "predictions.npz").exists()
    since = f"trial = {trial} AND arrival > {cut_at + 5}"
    late = query(database, f"SELECT DISTINCT attempt FROM epochs WHERE {since}")
    assert late == [(2,)]
    assert attributes(database, "attempts")[trial] == 2
    assert attributes(database, "worker")[trial].startswith(hosts.name(2))
    assert "Traceback" not in hosts.log("search").read_text()


def search_line(folder: Path, address: str) -> list[str]:
    images = write_images(folder / "images", images_per_class=40, side=64)
    flags = f"--space finetune --backbones lite0 --data {images} --image-size 64 --trials {NUM_TRIALS}"
    flags += f" --max-epochs {EPOCHS} --scheduler none --study cut --runs-dir {folder}/runs"
    return ["tune.py", "--address", address, *flags.split(), "--cache-dir", str(folder / "cache")]


def wait_for_trial_on(host: str, database: Path, driver: subprocess.Popen[bytes], hosts: Hosts) -> int:
    """A trial that this host has begun and not ended."""
    for _ in patiently(driver, hosts):
        try:
            begun = {n for n, worker in attributes(database, "worker").items() if worker.startswith(host)}
            open_trials = begun - attributes(database, "outcome").keys()
        except sqlite3.OperationalError:  # neither the file nor its tables need be there yet
            continue
        if open_trials:
            return min(open_trials)
    raise AssertionError("never reached")


def wait_for_second_attempt(
    trial: int, database: Path, driver: subprocess.Popen[bytes], hosts: Hosts
) -> None:
    for _ in patiently(driver, hosts):
        if attributes(database, "attempts")[trial] > 1:
            return


def patiently(driver: subprocess.Popen[bytes], hosts: Hosts) -> Iterator[None]:
    deadline = time.monotonic() + 180
    while True:
        assert driver.poll() is None, hosts.log("search").read_text()
        assert time.monotonic() < deadline, hosts.log("search").read_text()
        yield
        time.sleep(0.2)
