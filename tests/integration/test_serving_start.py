"""A real server on Ray Serve: no request is lost while replicas are killed or versions change."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from contract.model_answers import ImageAnswer
from contract.model_layout import ModelPaths
from serving.model import load_model
from tests.fuzzed_bodies import fuzz
from tests.http_server import Client, Reply, ask_over
from tests.tiny_models import make_noise, write_tiny_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
START_SECONDS = 120
CLIENTS = 16
FILES = [make_noise(seed) for seed in range(12)]


@dataclass(frozen=True)
class Server:
    """The command, its models, and a client for it."""

    process: subprocess.Popen[str]
    client: Client
    tiny: ModelPaths
    log: Path

    def replicas(self, model: str) -> list[psutil.Process]:
        """Worker processes of a model that are there now."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if f"ServeReplica:{model}-" in " ".join(process.cmdline()):
                    found.append(process)
        return found


def start(*flags: str) -> list[str]:
    return [sys.executable, "-m", "serving", "start", *flags]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models with two replicas each, on a free port."""
    folder = tmp_path_factory.mktemp("serving")
    tiny = write_tiny_model(folder / "first")
    write_tiny_model(folder / "second", sharpness=2.0)
    log = folder / "log"
    with log.open("w") as file:
        command = start(f"tiny={folder / 'first'}", f"{folder / 'second'}", "--replicas", "2", "--port", "0")
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True)
        assert process.stdout is not None
        stopping = threading.Timer(START_SECONDS, process.kill)
        stopping.start()
        line = process.stdout.readline()
        stopping.cancel()
        assert line.startswith("serving tiny, second at http://127.0.0.1:"), log.read_text()
        try:
            yield Server(process, Client(int(line.strip("/\n").rpartition(":")[2])), tiny, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def expected_rows(model: ModelPaths) -> list[dict[str, Any]]:
    """What the program says of FILES in this process."""
    answers = load_model(model, device="cpu", threads=1).classify(FILES)
    return [one.as_values() for one in answers if isinstance(one, ImageAnswer)]


def is_right(reply: Reply, expected: dict[str, dict[str, Any]], number: int) -> bool:
    """Whether an answer is that of the version that it names; `expected` is by version."""
    (row,) = reply.value["predictions"]
    right = expected[reply.value["version"]][number]
    return row["label"] == right["label"] and row["probability"] == pytest.approx(
        right["probability"], abs=1e-5
    )


def ask_many(
    server: Server, count: int, expected: dict[str, Any], meanwhile: Callable[[int], None]
) -> list[str]:
    """Send requests by CLIENTS clients, none of which repeats any: the versions that answered.

    Args:
        meanwhile: is called in one more thread with the number of answers so far, again and again.
    """
    versions: list[str] = []
    done = threading.Event()

    def client(first: int) -> list[Any]:
        wrong = []
        connection = http.client.HTTPConnection("127.0.0.1", server.client.port, timeout=120)
        for at in range(first, count, CLIENTS):
            number = at % len(FILES)
            reply = ask_over(connection, "POST", "/models/tiny/predict", FILES[number], "image/jpeg")
            if reply.status != 200 or not is_right(reply, expected, number):
                wrong.append(reply)
            else:
                versions.append(reply.value["version"])
        return wrong

    def act() -> None:
        while not done.is_set():
            meanwhile(len(versions))
            time.sleep(0.02)

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        acting = pool.submit(act)
        try:
            wrong = [one for found in pool.map(client, range(CLIENTS)) for one in found]
        finally:
            done.set()
        acting.result()
    assert not wrong, wrong[:3]
    assert len(versions) == count
    return versions


def test_models_side_by_side_answer_as_their_programs_do(server: Server) -> None:
    for name, directory in (("tiny", "first"), ("second", "second")):
        model = ModelPaths(server.tiny.directory.parent / directory)
        version = model.digest()
        assert version is not None
        expected = {version: expected_rows(model)}
        for number, content in enumerate(FILES):
            reply = server.client.post(f"/models/{name}/predict", content)
            assert reply.status == 200
            assert is_right(reply, expected, number)


def test_no_process_of_the_server_listens_to_the_network(server: Server) -> None:
    main = psutil.Process(server.process.pid)
    found = [
        (process.name(), connection.laddr.ip)
        for process in (main, *main.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert len(found) > 4
    assert {address.removeprefix("::ffff:") for _, address in found} <= {"127.0.0.1", "::1"}, found


def test_no_request_is_lost_or_wrong_while_replicas_are_killed_twice(server: Server, full: bool) -> None:
    count = 10_000 if full else 1_500
    version = server.tiny.digest()
    assert version is not None
    marks = [count // 5, 2 * count // 5]
    killed: list[int] = []

    def kill(answered: int) -> None:
        if marks and answered >= marks[0]:
            for process in server.replicas("tiny")[:1]:
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                marks.pop(0)

    versions = ask_many(server, count, {version: expected_rows(server.tiny)}, kill)

    assert {*versions} == {version}
    assert len({*killed}) == 2


def test_a_new_version_comes_without_a_lost_request(server: Server) -> None:
    old = server.tiny.digest()
    rows = expected_rows(server.tiny)
    write_tiny_model(server.tiny.directory, sharpness=4.0)
    new = server.tiny.digest()
    assert old is not None
    assert new is not None
    expected = {old: rows, new: expected_rows(server.tiny)}
    replies: list[Reply] = []

    def reload(answered: int) -> None:
        if not replies:
            replies.append(server.client.post("/models/tiny/reload", b"", None))

    versions = ask_many(server, 1_500, expected, reload)
    while server.client.post("/models/tiny/predict", FILES[0]).value["version"] == old:
        time.sleep(0.2)

    assert replies[0].status == 200
    assert replies[0].value == {"model": "tiny", "version": new, "was": old, "changed": True}
    assert old in versions
    assert server.client.ask("GET", "/health").value["models"]["tiny"] == new
    again = server.client.post("/models/tiny/reload", b"", None)
    assert (again.status, again.value["changed"]) == (200, False)


def test_a_damaged_version_is_refused_and_the_old_one_goes_on(server: Server) -> None:
    good, version = server.tiny.program.read_bytes(), server.tiny.digest()
    server.tiny.program.write_bytes(good[: len(good) // 2])
    try:
        reply = server.client.post("/models/tiny/reload", b"", None)
    finally:
        server.tiny.program.write_bytes(good)

    assert reply.status == 409
    assert f"version {version} goes on" in reply.value["error"]
    assert "missing or damaged" in reply.value["error"]
    assert server.client.post("/models/tiny/predict", FILES[0]).value["version"] == version


def test_mutated_files_leave_replicas_alive_and_small(server: Server, full: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.client.port, timeout=60)

    def send(count: int, seed: int) -> set[int]:
        found = set()
        for body, kind in fuzz(count, seed=seed):
            reply = ask_over(connection, "POST", "/predict", body, kind or None)
            assert reply.status == 200 or 400 <= reply.status < 500, reply
            found.add(reply.status)
        return found

    send(100, seed=2)
    before = {one.pid: one.memory_info().rss for one in server.replicas("tiny")}
    statuses = send(2000 if full else 200, seed=3)
    after = {one.pid: one.memory_info().rss for one in server.replicas("tiny")}

    assert {200, 400, 415} <= statuses
    assert before.keys() == after.keys()
    assert all(after[pid] - before[pid] < 40 * 2**20 for pid in before)


def test_a_port_in_use_and_a_missing_model_end_the_command_in_a_line(server: Server) -> None:
    cases = {
        f"cannot listen on 127.0.0.1:{server.client.port}": [
            str(server.tiny.directory),
            "--port",
            str(server.client.port),
        ],
        "neither a model's directory nor a study": ["no-such-model"],
    }
    for reason, flags in cases.items():
        ended = subprocess.run(start(*flags), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2
        assert ended.stderr.startswith("serving: ")
        assert reason in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_ctrl_c_ends_the_server_and_all_that_it_started(server: Server) -> None:
    mine = psutil.Process(server.process.pid).children(recursive=True)
    assert len(mine) > 4
    slow = threading.Thread(target=lambda: server.client.post("/predict", FILES[0]))
    slow.start()

    os.kill(server.process.pid, signal.SIGINT)

    assert server.process.wait(30) == 0
    slow.join()
    _, alive = psutil.wait_procs(mine, 10)
    assert not alive
    assert server.log.read_text() == ""
