"""A model hub on loopback with the real one's layout: commits, redirects to large files, and failures."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CHUNK = 2**16


class StandInHub:
    """Serves repositories; `fails` says how: "" = not at all, "cut", "hang" or "hang in the middle"."""

    def __init__(self) -> None:
        self.commits: dict[str, list[str]] = {}
        """The commits of each repository, the newest last."""

        self.files: dict[tuple[str, str], bytes] = {}
        """By commit and name."""

        self.fails = ""
        self.requests: list[str] = []
        self.ending = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, repository: str, content: bytes, *, name: str = "model.safetensors") -> str:
        """Add a version of a repository that has this one file."""
        before = self.commits.setdefault(repository, [])
        revision = hashlib.sha1(f"{repository}{len(before)}".encode() + content).hexdigest()
        before.append(revision)
        self.files[revision, name] = content
        return revision

    def stop(self) -> None:
        self.ending.set()
        self.server.shutdown()
        self.server.server_close()


def _make_handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            hub.requests.append(f"{self.command} {self.path}")

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            if hub.fails == "hang":
                hub.ending.wait()
                return
            words = self.path.strip("/").split("/")
            if words[0] == "storage":
                self.send_content(next(one for one in hub.files.values() if _sha256(one) == words[1]))
            elif words[:2] == ["api", "models"]:
                self.send_facts("/".join(words[2:4]), words[5] if words[4:5] == ["revision"] else "main")
            else:
                self.redirect("/".join(words[:2]), words[3], words[4])

        def send_facts(self, repository: str, asked: str) -> None:
            revision = self.find(repository, asked)
            if revision is not None:
                facts = {"id": repository, "sha": revision, "siblings": []}
                self.send(200, {}, json.dumps(facts).encode())

        def redirect(self, repository: str, asked: str, name: str) -> None:
            """A large file lies elsewhere, as on the real hub: "localhost" is another host than 127.0.0.1."""
            revision = self.find(repository, asked)
            if revision is None:
                return
            content = hub.files.get((revision, name))
            if content is None:
                self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision}, b"")
                return
            digest = _sha256(content)
            headers = {
                "Location": f"http://localhost:{hub.port}/storage/{digest}",
                "X-Repo-Commit": revision,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{digest}"',
                "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            }
            self.send(302, headers, b"")

        def find(self, repository: str, asked: str) -> str | None:
            commits = hub.commits.get(repository)
            if commits is None:
                self.send(404, {"X-Error-Code": "RepoNotFound"}, b"")
                return None
            revision = commits[-1] if asked == "main" else asked
            if revision not in commits:
                self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
                return None
            return revision

        def send_content(self, content: bytes) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            fails = hub.fails
            stop = len(content) // 2 if fails else len(content)
            for at in range(start, stop, CHUNK):
                self.wfile.write(content[at : min(at + CHUNK, stop)])
            if fails == "hang in the middle":
                hub.ending.wait()
            self.close_connection = bool(fails)

        def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """A hub for as long as this lasts."""
    hub = StandInHub()
    try:
        yield hub
    finally:
        hub.stop()


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Any, *, offline: bool = False) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE say to a process that starts with them."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
