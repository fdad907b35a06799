"""The link that tune.py prints opens MLflow's runs in a real browser: sorted, with the searched columns."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from analysis.tracking import find_leaderboard, log_model, sync
from tests.integration.test_report_in_browser import browser as browser
from tests.study_factory import FakeTrial, make_study
from tests.unit.analysis.test_serving import export_dir as export_dir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
READ_TABLE = """
    const texts = (selector) => [...document.querySelectorAll(selector)].map((cell) => cell.innerText.trim());
    return {
        columns: texts('.ag-header-cell'),
        values: texts('.ag-center-cols-container .ag-row [col-id*="best_"]'),
    };"""


def make(folder: Path, **facts: Any) -> Path:
    accuracies = (0.3, 0.9, 0.1, 0.7, 0.5)
    trials = [FakeTrial(curve=[value], config={"dropout": value / 2}) for value in accuracies]
    searched = [
        {"name": "learning_rate", "values": "1e-5 .. 1e-2"},
        {"name": "dropout", "values": "0 .. 0.5"},
    ]
    return make_study(folder, trials, space_table=searched, **facts)


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose MLflow is an SQLite file."""
    study = make(tmp_path_factory.mktemp("runs of x") / "in file")
    sync(study)
    return study


@pytest.fixture(scope="module")
def server(in_file: Path) -> Iterator[str]:
    """MLflow as the printed command starts it, but at a free port."""
    command, _, _ = find_leaderboard(in_file).partition(", then ")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = shlex.split(command)
    running = subprocess.Popen(
        [shutil.which(words[0], path=path) or words[0], *words[1:], "--port", port],
        cwd=in_file.parent,
        env=os.environ | {"PATH": path},
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(300):
            assert running.poll() is None
            try:
                opener.open(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(timeout=30)


def open_table(browser: Any, address: str, *, num_runs: int) -> Any:
    browser.set_window_size(2600, 1000)
    browser.get(address)
    table = {"columns": [], "values": []}
    for _ in range(240):
        table = browser.execute_script(READ_TABLE)
        if len(table["values"]) == num_runs and "state" in table["columns"]:
            break
        time.sleep(0.25)
    browser.set_window_size(1200, 1000)
    return table


def test_the_link_of_a_file_opens_its_runs_ranked_with_the_searched_columns(
    in_file: Path, server: str, browser: Any
) -> None:
    _, _, link = find_leaderboard(in_file).partition(", then ")

    table = open_table(browser, link.replace("http://127.0.0.1:5000", server), num_runs=6)

    values = [float(value) for value in table["values"]]
    assert values == sorted(values, reverse=True) == [0.9, 0.9, 0.7, 0.5, 0.3, 0.1]  # and the study's own
    assert {"best_val_accuracy", "learning_rate", "dropout", "state"} <= set(table["columns"])


def test_the_link_of_a_server_is_whole_and_its_lowest_loss_comes_first(
    tmp_path: Path, server: str, browser: Any, export_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    study = make(tmp_path / "on a server", metric="val_loss", direction="minimize")
    uri = log_model(study, export_dir, server)

    link = find_leaderboard(study, server)
    table = open_table(browser, link, num_runs=6)

    values = [float(value) for value in table["values"]]
    assert values == sorted(values)
    client = mlflow.MlflowClient(server)
    assert log_model(study, export_dir, server) == uri
    assert int(client.get_model_version_by_alias("on a server", "champion").version) == 1
    assert len(client.search_model_versions("name = 'on a server'")) == 1


def test_a_study_that_mlflow_lacks_is_named(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [])

    with pytest.raises(ValueError, match="has no study s"):
        find_leaderboard(study)
