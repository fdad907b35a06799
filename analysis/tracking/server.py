"""Finds MLflow's address, checks that it answers, and locks a study's view for one writer."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from analysis.reading import StudyInfo
from contract.files import file_lock, temporary_names
from contract.sqlite_files import network_file_system, remove_write_ahead_log, sqlite_path, sqlite_url
from contract.study_layout import StudyPaths

logger = logging.getLogger("unfreeze")

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "GIT_PYTHON_REFRESH": "quiet"}
QUIET |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET |= {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
PROBE_SECONDS = 2.0


def find_tracking_uri(study: StudyInfo, given: str | None = None) -> str:
    """Find MLflow's address: the given one, else the study's, else an SQLite file beside the study.

    A recorded SQLite file whose folder is gone does not count: the study was copied from elsewhere.
    """
    uri = given or study.facts.get("tracking_uri")
    path = sqlite_path(uri) if uri else None
    is_gone = not given and path is not None and not path.parent.is_dir()
    return str(uri) if uri and not is_gone else sqlite_url(study.paths.tracking_database)


def public_address(tracking_uri: str) -> str:
    """Strip user, password and parameters from an address before it is printed; a file's has none."""
    if sqlite_path(tracking_uri) is not None:
        return tracking_uri
    scheme, mark, rest = tracking_uri.partition("://")
    return scheme + mark + rest.split("?")[0].split("#")[0].rpartition("@")[2]


def check_reachable(tracking_uri: str) -> None:
    """Connect to an HTTP server, which takes milliseconds where MLflow's own retries take minutes.

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
    """Set quiet output and short waits, before MLflow is imported; the user's own settings win."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def choose_journal(tracking_uri: str) -> None:
    """Set the journal of an SQLite file before MLflow opens it; the file keeps it.

    On a disk of this machine a write-ahead log lets the UI read while we write. A network file system cannot
    hold one.

    Raises:
        sqlite3.OperationalError: a log has to go, and another process has the file open.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return
    if kind := network_file_system(path):
        _recommend_server(path, kind)
        remove_write_ahead_log(path, timeout_seconds=2)
        return
    # A UI in the middle of a read refuses the change; it is tried again at the next start.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=2)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def make_tables(tracking_uri: str) -> None:
    """Make a new SQLite file with MLflow's tables under another name, and give it its own once all stand.

    MLflow makes them in a hundred steps that are no transaction. A process that is killed in between leaves a
    file that no later one can finish or open ("table issues already exists").
    """
    path = sqlite_path(tracking_uri)
    if path is None or path.exists():
        return
    from mlflow.tracking import MlflowClient

    with temporary_names(path) as (part,):
        url = sqlite_url(part)
        with no_stray_folders(url):
            MlflowClient(url).search_experiments(max_results=1)
        try:
            os.link(part, path)
        except FileExistsError:  # another process was as quick, and may have written to its file
            return
        except OSError:  # a file system without links
            part.rename(path)


@contextmanager
def no_stray_folders(tracking_uri: str) -> Iterator[None]:
    """Remove the empty folders that MLflow makes for a URL with a %: it takes the URL for the path."""
    written = Path(tracking_uri.partition("?")[0].partition(":///")[2])
    made = []
    if sqlite_path(tracking_uri) is not None and "%" in str(written):
        made = [folder for folder in written.parents if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # never made, or in use by now
                folder.rmdir()


@contextmanager
def only_writer(study_dir: Path) -> Iterator[None]:
    """Hold the lock on a study's view: two writers at once would create every run twice.

    Raises:
        BlockingIOError: another process or thread writes this study's view.
    """
    with file_lock(StudyPaths(study_dir).tracking_lock, timeout_seconds=0):
        yield


@cache  # a view is opened again after each failure; once is enough to know
def _recommend_server(path: Path, kind: str) -> None:
    logger.warning(
        "%s lies on a network file system (%s), where SQLite is slower and rests on that system's locks: "
        "a server is safer, --tracking-uri http://HOST:5000",
        path,
        kind,
    )
