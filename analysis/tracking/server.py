"""Where MLflow is: its address, whether it answers, and who may write a study's view."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from analysis.studies import StudyInfo

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "GIT_PYTHON_REFRESH": "quiet"}
QUIET |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET |= {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
PROBE_SECONDS = 2.0


def find_tracking_uri(study: StudyInfo, given: str | None = None) -> str:
    """The given address, else the study's, else SQLite beside the study.

    A recorded SQLite file whose directory is gone does not count: the study was copied from elsewhere.
    """
    uri = given or study.facts.get("tracking_uri")
    is_gone = uri and not given and uri.startswith("sqlite:") and not _sqlite_path(uri).parent.is_dir()
    if uri and not is_gone:
        return str(uri)
    path = str(study.directory.parent / "mlflow.db")
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def public_address(tracking_uri: str) -> str:
    """The address as it may be printed: without user, password and parameters."""
    scheme, mark, rest = tracking_uri.partition("://")
    return scheme + mark + rest.split("?")[0].split("#")[0].rpartition("@")[2]


def check_reachable(tracking_uri: str) -> None:
    """Knock at an HTTP server, which takes milliseconds where MLflow's own retries take minutes.

    Raises:
        ConnectionError: nobody answers.
    """
    address = urlsplit(tracking_uri)
    if address.scheme not in ("http", "https") or getproxies().get(address.scheme):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers there ({error})") from error


def silence_mlflow() -> None:
    """Before MLflow is imported: no telemetry, no chatter, short waits. What the user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def use_write_ahead_log(tracking_uri: str) -> None:
    """For SQLite, before MLflow opens it: its UI can then read while we write. The file keeps the mode."""
    if not tracking_uri.startswith("sqlite:///"):
        return
    # A UI in the middle of a read refuses the change; it is tried again at the next start.
    path = _sqlite_path(tracking_uri)
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=2)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def only_writer(study_dir: Path) -> Iterator[None]:
    """Two writers at once would create every run twice. The kernel ends the lock with its process.

    Raises:
        BlockingIOError: another process or thread writes this study's view.
    """
    with (study_dir / ".tracking.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.split(":///", 1)[-1]))
