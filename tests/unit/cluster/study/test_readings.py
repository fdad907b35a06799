"""Readings of the test split: each model has one, and no row is ever changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cluster.jobs.fetch import copy_study_rows
from cluster.study.records import Records


def open_records(folder: Path, name: str = "s") -> Records:
    url = f"sqlite:///{folder}/study.db"
    return Records(url, study=name, directions=["maximize"], metric="val_accuracy", new=False)


def reading(digest: str, **changes: Any) -> dict[str, Any]:
    values = {"digest": digest, "rule": "single", "images": 40, "record": {"accuracy": [0.9]}, "created": 5.0}
    return values | changes


def test_a_second_model_is_a_second_row_and_a_model_read_again_keeps_its_first(tmp_path: Path) -> None:
    records = open_records(tmp_path)

    first = records.add_reading(**reading("a"))
    second = records.add_reading(**reading("b", rule="ensemble"))
    again = records.add_reading(**reading("a", record={"accuracy": [0.99]}, created=9.0))

    assert [one.reading for one in (first, second, again)] == [1, 2, 1]
    assert again == first
    assert records.load_readings() == [first, second]
    assert first.record == {"accuracy": [0.9]}
    records.close()


def test_readings_of_two_studies_in_one_database_are_numbered_apart(tmp_path: Path) -> None:
    one, other = open_records(tmp_path), open_records(tmp_path, "t")

    one.add_reading(**reading("a"))

    assert other.add_reading(**reading("a")).reading == 1
    one.close()
    other.close()


def test_a_study_of_an_earlier_version_gets_the_tables_when_it_is_opened(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    with records._engine.begin() as connection:
        for table in ("finals", "readings"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
    records.close()

    records = open_records(tmp_path)

    assert records.load_finals() == []
    assert records.add_reading(**reading("a")).reading == 1
    records.close()


def test_a_copy_of_the_study_has_its_readings(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    kept = records.add_reading(**reading("a"))
    records.close()
    (tmp_path / "copy").mkdir()

    copy_study_rows(f"sqlite:///{tmp_path}/study.db", f"sqlite:///{tmp_path}/copy/study.db", study="s")

    copied = open_records(tmp_path / "copy")
    assert copied.load_readings() == [kept]
    copied.close()
