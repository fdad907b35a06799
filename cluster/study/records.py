"""Records: the rows of one study in Optuna's tables and in ours, written a transaction at a time."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cluster.study import database
from cluster.study.database import param_row, utc_now, write_attrs, write_rows
from cluster.study.final_records import (
    FINALS,
    FinalRecord,
    Reading,
    add_reading,
    load_finals,
    load_readings,
    write_finals,
)
from cluster.study.passwords import without_password
from cluster.study.probe_records import PROBES, ProbeRecord, load_probes, write_probes
from contract.messages import EpochDecision

logger = logging.getLogger("unfreeze")
T = TypeVar("T")
PATIENCE_SECONDS = 600.0
"""How long a running study waits for its database."""
SILENT_SECONDS = 1.0
"""How long it waits before the user is told."""
OPENING_SECONDS = 10.0
"""How long it waits when it opens the database, where a wrong address is likelier than an outage."""

EPOCHS = sa.Table(
    "epochs",
    sa.MetaData(),
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("arrival", sa.Float(53), nullable=False),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("predicted", sa.LargeBinary, nullable=True),
)
DRIVERS = sa.Table(
    "drivers",
    EPOCHS.metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(64), nullable=False),
)
"""The token of the driver that may write to a study."""
_STUDIES, _TRIALS = (cast(sa.Table, m.__table__) for m in (models.StudyModel, models.TrialModel))
_PARAMS, _VALUES = (cast(sa.Table, m.__table__) for m in (models.TrialParamModel, models.TrialValueModel))
_CURVES = cast(sa.Table, models.TrialIntermediateValueModel.__table__)
_USER = cast(sa.Table, models.TrialUserAttributeModel.__table__)
_SYSTEM = cast(sa.Table, models.TrialSystemAttributeModel.__table__)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A row of `epochs`; `arrival` is unix time, `predicted` is that of the report."""

    trial: int
    epoch: int
    attempt: int
    metrics: Mapping[str, float]
    arrival: float
    decision: EpochDecision
    predicted: bytes | None = None


@dataclass(kw_only=True)
class TrialRecord:
    """A trial with all its rows in the database."""

    number: int
    state: TrialState
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    """By epoch, from 1."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a trial; `values` are the objectives at its kept epoch, None if its outcome has no value."""

    trial: int
    state: TrialState
    values: tuple[float, ...] | None
    attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NewTrial:
    """A proposed trial, which runs unless it has an ending."""

    trial: FrozenTrial
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ending: Ending | None = None


class DatabaseGone(RuntimeError):
    """The study database did not answer for PATIENCE_SECONDS."""


class TakenOver(DatabaseGone):
    """Another process drives this study by now, so that this one may not write to it."""


class Records:
    """Reads and writes the rows of one study, and waits for a database that is locked or away for a while."""

    def __init__(self, url: str, *, study: str, directions: Sequence[str], metric: str, new: bool) -> None:
        self._metric = metric
        try:
            self._storage = self._patiently(lambda: database.open_storage(url), opening=True)
        except (sa.exc.SQLAlchemyError, StorageInternalError) as error:
            raise ValueError(f"the study database {_public(url)} cannot be opened: {_cause(error)}") from None
        self._engine = self._storage.engine
        self.study_id = self._patiently(lambda: self._find_or_create(study, directions, new=new))
        self._trial_ids: dict[int, int] = {}
        self._token: str | None = None

    def take_over(self, token: str) -> None:
        """Become the study's driver: `record` of an earlier driver raises TakenOver from now on."""
        self._patiently(lambda: self._take_over(token))
        self._token = token

    def record(
        self,
        epochs: Iterable[EpochRecord] = (),
        endings: Iterable[Ending] = (),
        attrs: Mapping[int, Mapping[str, Any]] | None = None,
        new: Iterable[NewTrial] = (),
    ) -> None:
        """Write epochs, ends of trials, attributes by trial number, and new trials, in one transaction.

        An epoch that is there already is overwritten, as when it is replayed. New trials keep their numbers.

        Raises:
            TakenOver: another driver has taken the study over; nothing was written.
        """
        epochs, endings, new, attrs = list(epochs), list(endings), list(new), attrs or {}
        if epochs or endings or new or attrs:
            self._patiently(lambda: self._record(epochs, endings, attrs, new))

    def record_probes(self, probes: Sequence[ProbeRecord]) -> None:
        """Write probes that ended, in one transaction.

        Raises:
            TakenOver: another driver has taken the study over; nothing was written.
        """
        if probes:
            self._write(lambda connection: write_probes(connection, self.study_id, probes))

    def load_probes(self) -> list[ProbeRecord]:
        """All probes that ended, by number."""
        return self._read(lambda connection: load_probes(connection, self.study_id))

    def record_finals(self, finals: Sequence[FinalRecord]) -> None:
        """Write final trainings as they stand now, in one transaction.

        Raises:
            TakenOver: another driver has taken the study over; nothing was written.
        """
        if finals:
            self._write(lambda connection: write_finals(connection, self.study_id, finals))

    def load_finals(self) -> list[FinalRecord]:
        """All final trainings, by number."""
        return self._read(lambda connection: load_finals(connection, self.study_id))

    def add_reading(
        self, *, digest: str, rule: str, images: int, record: Mapping[str, Any], created: float
    ) -> Reading:
        """Record what a model did on the test split, unless that model's reading is recorded already.

        Raises:
            TakenOver: another driver has taken the study over; nothing was written.
        """
        values: dict[str, Any] = {
            "digest": digest,
            "rule": rule,
            "images": images,
            "record": record,
            "created": created,
        }
        return self._write(lambda connection: add_reading(connection, self.study_id, **values))

    def load_readings(self) -> list[Reading]:
        """All readings of the test split, the first one first."""
        return self._read(lambda connection: load_readings(connection, self.study_id))

    def load(self) -> list[TrialRecord]:
        """All trials by number, in a few queries: Optuna's get_trials takes 18 s for 10,000 trials."""
        return self._patiently(self._load)

    def close(self) -> None:
        self._storage.remove_session()
        self._engine.dispose()

    def _patiently(self, work: Callable[[], T], *, opening: bool = False) -> T:
        """Do the work; again and again while the database does not answer.

        Raises:
            DatabaseGone: it has not answered for PATIENCE_SECONDS; while opening, its own error is raised.
        """
        began, pause = time.monotonic(), 0.05
        while True:
            try:
                return work()
            except (sa.exc.OperationalError, sa.exc.InterfaceError, StorageInternalError) as error:
                waited = time.monotonic() - began
                if opening and waited > OPENING_SECONDS:
                    raise
                if waited > PATIENCE_SECONDS:
                    text = f"the study database has not answered for {waited / 60:.0f} minutes"
                    raise DatabaseGone(
                        f"{text} ({_cause(error)}): run the same command to continue"
                    ) from None
                log = logger.warning if waited > SILENT_SECONDS else logger.debug
                log("the study database does not answer (%s): waiting, nothing is lost", _cause(error))
                time.sleep(pause)
                pause = min(2 * pause, 10.0)

    def _find_or_create(self, study: str, directions: Sequence[str], *, new: bool) -> int:
        for tables in (EPOCHS.metadata, PROBES.metadata, FINALS.metadata):
            tables.create_all(self._engine)
        database.add_missing_columns(self._engine, EPOCHS)
        try:
            return self._storage.create_new_study([StudyDirection[d.upper()] for d in directions], study)
        except DuplicatedStudyError:
            study_id = self._storage.get_study_id_from_name(study)
            if new:
                raise ValueError(
                    f"--storage already holds a study named {study} from another runs directory: "
                    "give this one another --study name"
                ) from None
            return study_id

    def _take_over(self, token: str) -> None:
        with self._engine.begin() as connection:
            mine = DRIVERS.c.study_id == self.study_id
            if connection.execute(sa.update(DRIVERS).where(mine).values(token=token)).rowcount == 0:
                connection.execute(sa.insert(DRIVERS).values(study_id=self.study_id, token=token))

    def _check_driver(self, connection: sa.Connection) -> None:
        """Raise TakenOver unless this process drives the study.

        An update that changes nothing takes the database's write lock (SQLite) or the row's (PostgreSQL), so
        that no other process can take the study over between this check and the commit.
        """
        if self._token is None:
            return
        mine = (DRIVERS.c.study_id == self.study_id, DRIVERS.c.token == self._token)
        if connection.execute(sa.update(DRIVERS).where(*mine).values(token=self._token)).rowcount == 0:
            raise TakenOver("another process has taken this study over; it goes on there")

    def _add_trial(self, connection: sa.Connection, new: NewTrial) -> None:
        trial = new.trial
        # A commit whose answer was lost is tried again, so the row may be there.
        if self._find_id(connection, trial.number) is not None:
            return
        row = {"number": trial.number, "study_id": self.study_id, "state": TrialState.RUNNING}
        statement = sa.insert(_TRIALS).values(row | {"datetime_start": utc_now()})
        inserted = connection.execute(statement).inserted_primary_key
        assert inserted is not None
        trial_id = int(inserted[0])
        if trial.params:
            connection.execute(sa.insert(_PARAMS), [param_row(trial_id, trial, n) for n in trial.params])
        write_attrs(connection, _USER, trial_id, new.attrs)
        write_attrs(connection, _SYSTEM, trial_id, trial.system_attrs)
        self._trial_ids[trial.number] = trial_id
        if new.ending is not None:
            self._write_ending(connection, new.ending)

    def _record(
        self,
        epochs: list[EpochRecord],
        endings: list[Ending],
        attrs: Mapping[int, Mapping[str, Any]],
        new: list[NewTrial],
    ) -> None:
        with self._engine.begin() as connection:
            self._check_driver(connection)
            for trial in new:
                self._add_trial(connection, trial)
            self._write_epochs(connection, epochs)
            for number, values in attrs.items():
                write_attrs(connection, _USER, self._trial_id(connection, number), values)
            for ending in endings:
                self._write_ending(connection, ending)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do the work in one transaction, if this process still drives the study."""

        def write() -> T:
            with self._engine.begin() as connection:
                self._check_driver(connection)
                return work(connection)

        return self._patiently(write)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        def read() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return self._patiently(read)

    def _write_epochs(self, connection: sa.Connection, epochs: list[EpochRecord]) -> None:
        rows: list[dict[str, Any]] = []
        points: list[dict[str, Any]] = []
        for record in epochs:
            row = {
                name: getattr(record, name) for name in ("trial", "epoch", "attempt", "arrival", "predicted")
            }
            row |= {"study_id": self.study_id, "metrics": json.dumps(dict(record.metrics))}
            rows.append(row | {"decision": record.decision.value})
            value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
                float(record.metrics.get(self._metric, math.nan))
            )
            point = {"trial_id": self._trial_id(connection, record.trial), "step": record.epoch}
            points.append(point | {"intermediate_value": value, "intermediate_value_type": kind})
        write_rows(connection, EPOCHS, rows, key=("study_id", "trial", "epoch"))
        write_rows(connection, _CURVES, points, key=("trial_id", "step"))

    def _write_ending(self, connection: sa.Connection, ending: Ending) -> None:
        trial_id = self._trial_id(connection, ending.trial)
        done = {"state": ending.state, "datetime_complete": utc_now()}
        connection.execute(sa.update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(done))
        rows: list[dict[str, Any]] = []
        for objective, number in enumerate(ending.values or ()):
            value, kind = models.TrialValueModel.value_to_stored_repr(number)
            rows.append({"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind})
        write_rows(connection, _VALUES, rows, key=("trial_id", "objective"))
        write_attrs(connection, _USER, trial_id, ending.attrs)
        write_attrs(connection, _SYSTEM, trial_id, ending.system_attrs)

    def _trial_id(self, connection: sa.Connection, number: int) -> int:
        if number not in self._trial_ids:
            found = self._find_id(connection, number)
            assert found is not None, f"trial {number} was never added"
            self._trial_ids[number] = found
        return self._trial_ids[number]

    def _find_id(self, connection: sa.Connection, number: int) -> int | None:
        same = (_TRIALS.c.study_id == self.study_id, _TRIALS.c.number == number)
        return connection.execute(sa.select(_TRIALS.c.trial_id).where(*same)).scalar()

    def _load(self) -> list[TrialRecord]:
        trials: dict[int, TrialRecord] = {}
        with self._engine.connect() as connection:
            columns = (_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state)
            query = sa.select(*columns).where(_TRIALS.c.study_id == self.study_id)
            for trial_id, number, state in connection.execute(query):
                trials[trial_id] = TrialRecord(number=number, state=state)
                self._trial_ids[number] = trial_id
            self._load_params(connection, trials)
            for table, name in ((_USER, "attrs"), (_SYSTEM, "system_attrs")):
                for trial_id, key, value in self._rows(connection, table, "key", "value_json"):
                    getattr(trials[trial_id], name)[key] = json.loads(value)
            for trial_id, value, kind in self._rows(connection, _VALUES, "value", "value_type"):
                trials[trial_id].values.append(models.TrialValueModel.stored_repr_to_value(value, kind))
            self._load_epochs(connection, {trial.number: trial for trial in trials.values()})
        return sorted(trials.values(), key=lambda trial: trial.number)

    def _load_params(self, connection: sa.Connection, trials: Mapping[int, TrialRecord]) -> None:
        known: dict[str, BaseDistribution] = {}  # parsing the same few texts 100,000 times takes 2 s
        columns = ("param_name", "param_value", "distribution_json")
        for trial_id, name, value, text in self._rows(connection, _PARAMS, *columns):
            distribution = known.setdefault(
                text, json_to_distribution(text) if text not in known else known[text]
            )
            trials[trial_id].params[name] = distribution.to_external_repr(value)
            trials[trial_id].distributions[name] = distribution

    def _load_epochs(self, connection: sa.Connection, trials: Mapping[int, TrialRecord]) -> None:
        query = sa.select(EPOCHS).where(EPOCHS.c.study_id == self.study_id)
        for row in connection.execute(query.order_by(EPOCHS.c.trial, EPOCHS.c.epoch)).mappings():
            values = {name: row[name] for name in ("trial", "epoch", "attempt", "arrival", "predicted")}
            decision = EpochDecision(row["decision"])
            record = EpochRecord(**values, decision=decision, metrics=json.loads(row["metrics"]))
            trials[record.trial].epochs[record.epoch] = record

    def _rows(self, connection: sa.Connection, table: sa.Table, *columns: str) -> Iterable[Any]:
        joined = table.join(_TRIALS, table.c.trial_id == _TRIALS.c.trial_id)
        query = sa.select(table.c.trial_id, *(table.c[name] for name in columns)).select_from(joined)
        # In the order of the primary key, which is that of the suggestions in the space.
        return connection.execute(
            query.where(_TRIALS.c.study_id == self.study_id).order_by(*table.primary_key.columns)
        )


def _cause(error: Exception) -> str:
    """First line of what the database said, without passwords."""
    text = str(getattr(error, "orig", None) or error.__cause__ or error).strip()
    return without_password(text.partition("\n")[0])


def _public(url: str) -> str:
    return without_password(url, whole=True)
