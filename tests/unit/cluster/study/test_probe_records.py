"""The table `probes`: its rows read back equal, are written once, and only by the study's driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from cluster.jobs.fetch import copy_study_rows
from cluster.study.probe_records import ProbeRecord
from cluster.study.records import Records, TakenOver

MEASURED = ProbeRecord(
    probe=0,
    config={"backbone": "lite0", "unfreeze_depth": 0, "head_width": "512-128"},
    metrics={"val_accuracy": 0.875, "val_loss": 0.25},
    seconds=0.2,
    error=None,
    worker="localhost:7",
    arrival=1_760_000_000.25,
)
FAILED = replace(MEASURED, probe=1, metrics=None, error="Diverged: the loss is nan", worker=None)


def open_records(tmp_path: Path, *, study: str = "s", new: bool = True) -> Records:
    url = f"sqlite:///{tmp_path}/study.db"
    return Records(url, study=study, directions=["maximize"], metric="val_accuracy", new=new)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = open_records(tmp_path)
    yield made
    made.close()


def test_probes_are_read_back_as_they_were_written_and_by_number(records: Records) -> None:
    records.record_probes([FAILED])
    records.record_probes([MEASURED])

    assert records.load_probes() == [MEASURED, FAILED]
    assert records.load() == []


def test_a_write_that_is_repeated_leaves_one_row(records: Records) -> None:
    records.record_probes([MEASURED, FAILED])
    records.record_probes([MEASURED, FAILED])

    assert records.load_probes() == [MEASURED, FAILED]


def test_studies_in_one_database_have_probes_of_their_own(records: Records, tmp_path: Path) -> None:
    other = open_records(tmp_path, study="other")
    other.record_probes([FAILED])
    records.record_probes([MEASURED])

    assert (records.load_probes(), other.load_probes()) == ([MEASURED], [FAILED])
    other.close()


def test_a_driver_that_was_taken_over_writes_no_probe(records: Records, tmp_path: Path) -> None:
    records.take_over("first")
    records.record_probes([MEASURED])
    second = open_records(tmp_path, new=False)
    second.take_over("second")

    with pytest.raises(TakenOver):
        records.record_probes([FAILED])

    assert second.load_probes() == [MEASURED]
    second.close()


def test_a_database_of_a_version_without_probes_gets_the_table(records: Records, tmp_path: Path) -> None:
    with records._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE probes"))

    opened = open_records(tmp_path, new=False)

    assert opened.load_probes() == []
    opened.close()


@pytest.mark.parametrize("has_table", [True, False])
def test_a_copied_study_has_its_probes(records: Records, tmp_path: Path, has_table: bool) -> None:
    records.record_probes([MEASURED, FAILED])
    if not has_table:
        with records._engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE probes"))
    (tmp_path / "copy").mkdir()

    copy_study_rows(f"sqlite:///{tmp_path}/study.db", f"sqlite:///{tmp_path}/copy/study.db", study="s")

    copied = open_records(tmp_path / "copy", new=False)
    assert copied.load_probes() == ([MEASURED, FAILED] if has_table else [])
    copied.close()
