"""A study is copied from a cluster: packed, fetched and deleted there; whole and readable by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import tarfile
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from analysis.leaderboard import load_leaderboard
from analysis.reading import load_study
from cluster.jobs import fetch as study_copy
from cluster.jobs.fetch import (
    Package,
    end_packing,
    main,
    offer_study,
    pack_study,
    receive_package,
    runs_dir_of,
)
from cluster.jobs.server import JobServer, JobServerError
from tests.study_factory import FakeTrial, make_study

TRIALS = (FakeTrial(curve=(0.5, 0.7)), FakeTrial(curve=(0.6, 0.9)), FakeTrial(curve=(0.2,), outcome="pruned"))


class PackingServer:
    """A job server whose only job has printed `lines` and left one file."""

    def __init__(self, *lines: str, file: Path | None = None) -> None:
        self.lines, self.file, self.asked = lines, file, 0

    async def follow(self, job: str) -> AsyncGenerator[str, None]:
        text = "Running entrypoint\n" + "".join(f"{line}\n" for line in self.lines)
        for start in range(0, len(text), 7):  # pieces end anywhere
            await asyncio.sleep(0)
            yield text[start : start + 7]

    def download(self, name: str, *, node_id: str, target: IO[bytes]) -> None:
        assert self.file is not None
        assert (name, node_id) == (self.file.name, "head")
        target.write(self.file.read_bytes())

    def stop(self, job: str) -> bool:
        return True

    def job(self, job: str) -> Any:
        self.asked += 1
        return SimpleNamespace(status="RUNNING" if self.asked < 3 else "STOPPED")


def announce(file: Path, digest: str) -> str:
    return study_copy._MARK + json.dumps(asdict(Package(node_id="head", name=file.name, sha256=digest)))


def fetch(study: Path, folder: Path) -> Path:
    """Pack, receive and unpack a study, and give the copy's path."""
    sent = folder / "sent.tar.gz"
    server = PackingServer(announce(sent, pack_study(study, sent)), file=sent)
    receive_package(server, "packing", folder / "study.tar.gz")  # type: ignore[arg-type]
    with tarfile.open(folder / "study.tar.gz") as archive:
        archive.extractall(folder / "here", filter="data")
    return folder / "here" / study.name


def test_a_copied_study_has_the_same_leaderboard_and_only_what_is_needed(tmp_path: Path) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    (study / "trials/0").mkdir(parents=True, exist_ok=True)
    (study / "trials/0/checkpoint_1.pt").write_text("large")
    (study / "trials/0/predictions.npz").write_text("kept")

    copy = fetch(study, tmp_path)

    assert load_leaderboard([load_study(copy)]) == load_leaderboard([load_study(study)])
    assert json.loads((copy / "study.json").read_text())["storage"] == "sqlite:///study.db"
    assert (copy / "trials/0/predictions.npz").read_text() == "kept"
    assert not (copy / "trials/0/checkpoint_1.pt").exists()
    assert (tmp_path / "sent.tar.gz").stat().st_mode & 0o077 == 0


def move_database(study: Path, target: Path) -> None:
    """Move the study's database to `target`, as --storage sqlite:///target would have placed it."""
    (study / "study.db").rename(target)
    info = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(info | {"storage": f"sqlite:///{target}"}))


def test_a_study_whose_sqlite_file_lies_elsewhere_is_copied_whole(tmp_path: Path) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    expected = load_leaderboard([load_study(study)])
    move_database(study, tmp_path / "elsewhere.db")

    copy = fetch(study, tmp_path)

    assert (copy / "study.db").is_file()
    assert load_leaderboard([load_study(copy)]) == expected


def test_a_study_of_an_earlier_version_is_copied_without_the_newest_column(tmp_path: Path) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    expected = load_leaderboard([load_study(study)])
    move_database(study, tmp_path / "elsewhere.db")
    with closing(sqlite3.connect(tmp_path / "elsewhere.db")) as connection:
        connection.execute("ALTER TABLE epochs DROP COLUMN predicted")

    copy = fetch(study, tmp_path)

    assert load_leaderboard([load_study(copy)]) == expected


def test_a_missing_sqlite_file_is_named_and_not_made(tmp_path: Path) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    move_database(study, tmp_path / "elsewhere.db")
    (tmp_path / "elsewhere.db").unlink()

    with pytest.raises(ValueError, match=r"^the study database .*/elsewhere\.db is not there$"):
        pack_study(study, tmp_path / "sent.tar.gz")

    assert not (tmp_path / "elsewhere.db").exists()


def test_a_changed_copy_is_noticed(tmp_path: Path) -> None:
    sent = tmp_path / "sent.tar.gz"
    sent.write_bytes(b"half of it")

    with pytest.raises(ValueError, match="not whole"):
        receive_package(
            PackingServer(announce(sent, "0" * 64), file=sent),  # type: ignore[arg-type]
            "packing",
            tmp_path / "study.tar.gz",
        )


def test_a_study_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()

    with pytest.raises(ValueError, match=f"^no study at {tmp_path}$"):
        receive_package(PackingServer(*said), "packing", tmp_path / "study.tar.gz")  # type: ignore[arg-type]


def test_the_package_is_deleted_when_the_packing_job_is_asked_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "there", TRIALS)
    logs = tmp_path / "logs"
    logs.mkdir()
    before = signal.getsignal(signal.SIGTERM)
    there: list[str] = []

    def asked_to_end(seconds: float) -> None:
        there.extend(path.name for path in logs.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(study_copy, "time", SimpleNamespace(sleep=asked_to_end))
    try:
        with pytest.raises(SystemExit):
            offer_study(study, logs=logs, node_id="head")
    finally:
        signal.signal(signal.SIGTERM, before)

    announced = json.loads(capsys.readouterr().out.removeprefix(study_copy._MARK))
    assert there == [announced["name"]]
    assert list(logs.iterdir()) == []


def test_a_package_is_deleted_before_the_copy_counts_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    server = PackingServer()
    monkeypatch.setattr(study_copy, "time", SimpleNamespace(sleep=lambda _: None))

    end_packing(server, "packing")  # type: ignore[arg-type]

    assert server.asked == 3


def test_the_default_runs_directory_of_a_job_is_found_on_its_head_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNFREEZE_RUNS", str(tmp_path / "shared"))

    assert runs_dir_of("python tune.py --space demo") == Path("runs")
    assert main(["runs/demo-digits"]) == 1
    assert capsys.readouterr().out == f"error: no study at {tmp_path / 'shared/demo-digits'}\n"


@pytest.fixture
def log_server() -> Any:
    """A server on loopback that hands out one file as Ray's does; `serve` says what and how."""
    answers: dict[str, Any] = {"status": 200, "content": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers["asked"] = (urlsplit(self.path).path, parse_qs(urlsplit(self.path).query))
            self.send_response(answers["status"])
            self.send_header("Content-Length", str(len(answers["content"])))
            self.end_headers()
            self.wfile.write(answers["content"])

        log_message: Callable[..., None] = lambda *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    answers["address"] = f"http://127.0.0.1:{server.server_port}"
    yield answers
    server.shutdown()
    server.server_close()


def test_a_file_comes_through_the_job_server_byte_by_byte(log_server: Any, tmp_path: Path) -> None:
    log_server["content"] = bytes(range(256)) * 9000
    with (tmp_path / "copy").open("wb") as target:
        JobServer(log_server["address"]).download("a.tar.gz", node_id="head", target=target)

    path, query = log_server["asked"]
    assert (tmp_path / "copy").read_bytes() == log_server["content"]
    assert path == "/api/v0/logs/file"
    assert (query["node_id"], query["filename"], query["lines"]) == (["head"], ["a.tar.gz"], ["-1"])


def test_a_file_that_is_not_handed_out_is_named(log_server: Any, tmp_path: Path) -> None:
    log_server["status"] = 500

    with (
        (tmp_path / "copy").open("wb") as target,
        pytest.raises(JobServerError, match=r"does not hand out a\.tar\.gz: it answers 500"),
    ):
        JobServer(log_server["address"]).download("a.tar.gz", node_id="head", target=target)
