"""URLs of SQLite files: built and read back, whatever characters the path holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.sqlite_files import read_only_uri, sqlite_path, sqlite_url

ODD_NAMES = (
    "plain",
    "with blank",
    "my%20photos",
    "100%",
    "%2520",
    "what?",
    "a#b",
    "[x]{y}",
    "a@b:c",
    "a&b=c;d+e",
    "tulipán ü 图",
    "'\"`$!",
    "-dash",
    "~",
    "new\nline",
    " ends with blank ",
    "n" * 240,
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_database_in_a_folder_of_any_name_is_opened_by_its_url(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name[:20]}.db"

    engine = sa.create_engine(sqlite_url(path))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
    engine.dispose()

    assert sqlite_path(sqlite_url(path)) == path
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == [path]
    with closing(sqlite3.connect(read_only_uri(path), uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_only_what_must_be_is_encoded(name: str) -> None:
    assert sqlite_url(Path(name)).count("%") == name.count("%") + name.count("?")


def test_a_url_of_before_which_was_not_encoded_still_finds_its_file(tmp_path: Path) -> None:
    path = tmp_path / "my%20runs.db"
    path.touch()

    assert sqlite_path(f"sqlite:///{path}") == path


def test_a_url_as_sqlalchemy_writes_it_is_read() -> None:
    path = Path("/tmp/a b%20?#[x]/ü/s.db")
    rendered = sa.URL.create("sqlite", database=str(path)).render_as_string()

    assert rendered == "sqlite:////tmp/a b%2520%3F%23%5Bx%5D/%C3%BC/s.db"
    assert sqlite_path(rendered) == path
    assert sqlite_path("sqlite+pysqlite:///study.db?timeout=5") == Path("study.db")
    assert sqlite_path("sqlite:///file:/tmp/a%20b.db?mode=ro&uri=true") == Path("/tmp/a b.db")


@pytest.mark.parametrize(
    "url", ["postgresql://u@host/db", "sqlite://", "sqlite:///:memory:", "http://host:5000", "", "/tmp/s.db"]
)
def test_what_is_no_file_has_no_path(url: str) -> None:
    assert sqlite_path(url) is None
