"""Whatever goes wrong at the job server's address is told in one line, with a way out."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.jobs import submission
from cluster.jobs.server import JobServer, JobServerError, find_token
from cluster.jobs.submission import follow_job, wait_for_end


@contextmanager
def answering(status: int, content: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *words: Any) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_nobody_at_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    with pytest.raises(JobServerError, match=r"no cluster answers at http://127\.0\.0\.1:"):
        JobServer(f"127.0.0.1:{port}").check()


@pytest.mark.parametrize(
    ("status", "content", "token", "message"),
    [
        (401, "", None, "it wants a token; pass --token-file FILE, or set RAY_AUTH_TOKEN_PATH"),
        (403, "", "abc", "the token is not this cluster's"),
        (404, "", None, "is no Ray job server: it answers 404"),
        (200, "<html>", None, "is no Ray job server"),
        (200, json.dumps({"ray_version": "2.1.0"}), None, "runs Ray 2.1.0, this environment Ray "),
    ],
)
def test_a_server_that_refuses_or_is_another_is_described(
    status: int, content: str, token: str | None, message: str
) -> None:
    with answering(status, content) as address, pytest.raises(JobServerError, match=message) as raised:
        JobServer(address, token=token).check()

    assert "\n" not in str(raised.value)


def test_the_same_version_is_accepted() -> None:
    with answering(200, json.dumps({"ray_version": ray.__version__})) as address:
        JobServer(f"{address}/").check()


def test_the_token_is_found_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, recorded, set_path = (tmp_path / name for name in ("given", "recorded", "set"))
    for path in (given, recorded, set_path):
        path.write_text(f"{path.name}\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)

    assert find_token(given, recorded) == "given"
    assert find_token(None, recorded) == "recorded"
    assert find_token(None, None) is None
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(set_path))
    assert find_token(None, None) == "set"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-variable")
    assert find_token(None, None) == "from-variable"
    with pytest.raises(ValueError, match="does not exist"):
        find_token(tmp_path / "missing", None)


class EndlessJob:
    """A job server whose only job has written one line and still runs."""

    def __init__(self) -> None:
        self.following = threading.Event()

    async def follow(self, job: str) -> AsyncIterator[str]:
        import asyncio

        yield "0/3 trials\n"
        self.following.set()
        await asyncio.sleep(60)


def test_the_second_ctrl_c_stops_following_and_the_job_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, told = EndlessJob(), threading.Event()
    tell = submission._tell

    def note(line: str) -> None:
        tell(line)
        told.set()

    monkeypatch.setattr(submission, "_tell", note)

    def interrupt_twice() -> None:
        for ready in (server.following, told):  # two signals before the first is seen would count as one
            ready.wait(30)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    code = follow_job(server, "mine-1")  # type: ignore[arg-type]
    thread.join()

    shown = capsys.readouterr()
    assert code == 130
    assert "0/3 trials" in shown.out
    assert "To stop it: python -m cluster stop mine-1" in shown.err
    assert "the job goes on: python -m cluster logs mine-1" in shown.err


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
        ("STOPPED", -2, 130),
    ],
)
def test_the_exit_code_is_the_jobs(status: str, exit_code: int | None, code: int) -> None:
    ended = SimpleNamespace(status=status, driver_exit_code=exit_code, message="why\nbecause")

    assert wait_for_end(SimpleNamespace(job=lambda _: ended), "mine-1") == code  # type: ignore[arg-type]
