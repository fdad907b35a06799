"""Keeps the MLflow view of a study up to date while its search runs, or, with `sync`, does it once."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from analysis.reading import StudyInfo, connect, load_study, read_epochs_since
from analysis.tracking.server import (
    check_reachable,
    choose_journal,
    find_tracking_uri,
    make_tables,
    no_stray_folders,
    only_writer,
    public_address,
    silence_mlflow,
)
from analysis.tracking.view import MlflowView
from contract.files import first_line, plural

logger = logging.getLogger("unfreeze")

MAX_PAUSE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.5


class ViewWriter:
    """Copies new records of a study database to MLflow, until it is told that the last ones are there."""

    def __init__(
        self, study_dir: Path, tracking_uri: str | None = None, *, poll_seconds: float = 3.0
    ) -> None:
        self.finishing = threading.Event()
        """To be set once the search is over: what is left is written, and `follow` returns."""
        self.abandoned = threading.Event()
        """To be set to end before the next trial is written."""
        self._study_dir, self._given_uri, self._poll_seconds = study_dir, tracking_uri, poll_seconds
        self._failure: str | None = None
        self._view: MlflowView | None = None

    def follow(self) -> str | None:
        """Write until the search is over; returns in a line why MLflow lacks something, None if it does not.

        A fault of MLflow is logged as a warning, and tried again after a pause.
        """
        pause = min(self._poll_seconds, FIRST_PAUSE_SECONDS)
        try:
            with only_writer(self._study_dir):
                is_last = False
                while not is_last:
                    is_last = self.finishing.wait(pause)
                    worked = self._try_once(is_last=is_last)
                    pause = self._poll_seconds if worked else min(2 * pause, MAX_PAUSE_SECONDS)
        except OSError as error:
            self._failure = f"another process writes it ({error})"
        return self._failure

    def _try_once(self, *, is_last: bool) -> bool:
        try:
            self._write(is_last=is_last)
        # MLflow raises its own, SQLAlchemy's and requests' errors, and none of them may end this loop.
        except Exception as error:
            if self._failure is None and not is_last:
                logger.warning("MLflow cannot be written, the search goes on: %s", first_line(error))
            self._failure = first_line(error)
            self._view = None  # runs may have been deleted, or a server restarted: find them again
            return False
        if self._failure is not None:
            logger.warning("MLflow is written again")
        self._failure = None
        return True

    def _write(self, *, is_last: bool) -> None:
        study = load_study(self._study_dir)
        if self._view is None:
            if not is_last and not has_epochs(study):
                return
            self._view = open_view(study, self._given_uri)
        self._view.catch_up(status=study.status, is_abandoned=self.abandoned.is_set)


def sync(study_dir: Path, tracking_uri: str | None = None) -> str:
    """Bring MLflow up to date with the study database, and say what was written; nothing the second time.

    Raises:
        ValueError: MLflow cannot be written, or a running search writes it.
    """
    study = load_study(study_dir)
    uri = find_tracking_uri(study, tracking_uri)
    shown, started = public_address(uri), time.monotonic()
    try:
        with only_writer(study_dir):
            view = open_view(study, tracking_uri)
            num_runs = view.catch_up(status=study.status)
    except BlockingIOError as error:
        raise ValueError(f"{study.name}: a running search writes this view itself") from error
    except Exception as error:
        reason = first_line(error).replace(uri, shown)
        raise ValueError(f"MLflow at {shown} cannot be written: {reason}") from error
    if not num_runs:
        return f"up to date in {shown}"
    return f"{plural(num_runs, 'run')} written to {shown} in {time.monotonic() - started:.1f} s"


def open_view(study: StudyInfo, tracking_uri: str | None) -> MlflowView:
    """Connect to MLflow and find what it has of the study.

    Raises:
        ConnectionError: nobody answers at the address.
    """
    uri = find_tracking_uri(study, tracking_uri)
    check_reachable(uri)
    silence_mlflow()
    make_tables(uri)
    choose_journal(uri)
    with no_stray_folders(uri):
        return MlflowView(study, uri)


def has_epochs(study: StudyInfo) -> bool:
    """Whether the search has recorded anything yet."""
    try:
        with connect(study) as (connection, study_id):
            return bool(read_epochs_since(connection, study_id, arrival=0.0))
    except ValueError:  # the search has not written anything yet
        return False
