"""Passwords in URLs are found and removed, in every form in which a database, server or bucket takes one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from analysis.tracking.server import public_address
from cluster.jobs.flags import check_job_flags
from cluster.jobs.server import JobServer, JobServerError
from cluster.jobs.submission import read_variables
from cluster.study.config import StudyConfig
from cluster.study.directory import _describe
from cluster.study.passwords import has_password, without_password
from cluster.study.records import Records

SECRET = [
    ("postgresql://me:hunter2@db/x", "postgresql://me@db/x"),
    ("postgresql://me:hun@ter2@db:5432/x", "postgresql://me@db:5432/x"),
    ("POSTGRESQL://me:hunter2@db/x", "POSTGRESQL://me@db/x"),
    ("postgresql+psycopg://me:hun%2Fter2@db/x", "postgresql+psycopg://me@db/x"),
    ("postgresql://me%3Ahunter2@db/x", "postgresql://me@db/x"),
    ("postgresql://:hunter2@db/x", "postgresql://db/x"),
    ("postgresql://me:hunt?er2@db/x", "postgresql://me@db/x"),
    ("postgresql://db/x?password=hunter2", "postgresql://db/x"),
    ("postgresql://db/x?user=me&password=hunter2", "postgresql://db/x?user=me"),
    ("postgresql://db/x?PassWord=hunter2&user=me", "postgresql://db/x?user=me"),
    ("postgresql://db/x?p%61ssword=hunter2&sslmode=require", "postgresql://db/x?sslmode=require"),
    ("postgresql://db/x?sslpassword=hunter2&sslkey=me.key", "postgresql://db/x?sslkey=me.key"),
    ("mssql+pyodbc:///?odbc_connect=DSN%3Dx%3BPWD%3Dhunter2", "mssql+pyodbc:///"),
    ("s3://AKIA:hunter2@bucket/photos", "s3://AKIA@bucket/photos"),
    ("s3://AKIA:hun/ter+2@bucket/photos", "s3://AKIA@bucket/photos"),
    ("S3://AKIA:12/hunter2@bucket/photos", "S3://AKIA@bucket/photos"),
    ("simplecache::s3://AKIA:hunter2@bucket/photos", "simplecache::s3://AKIA@bucket/photos"),
    ("https://bucket/x.csv?X-Amz-Signature=hunter2&v=1", "https://bucket/x.csv?v=1"),
    ("https://ml/?access_token=hunter2", "https://ml/"),
    ("https://ml/#token=hunter2", "https://ml/"),
    ("https://ml/?next=https%3A%2F%2Fme%3Ahunter2%40other", "https://ml/"),
    ("http://head:8265?token=hunter2", "http://head:8265"),
]
PUBLIC = [
    "postgresql://unfreeze@postgres/unfreeze",
    "postgresql://me:@db/x",
    "postgresql://db:5432/x?user=me&sslmode=require&passfile=/home/me/.pgpass",
    "sqlite:////runs/a:b@c.db",
    "http://mlflow:5000/path@home",
    "https://ml/a?x=1#part",
    "s3://bucket/a:b@c.png",
    "gs://bucket/photos",
    "/data/me:photos@home",
    "digits",
    "10.0.0.1:6379",
]


@pytest.mark.parametrize(("url", "public"), SECRET)
def test_a_password_is_found_and_left_out_in_every_form(url: str, public: str) -> None:
    assert has_password(url)
    assert without_password(url, whole=True) == public
    assert not has_password(public)


@pytest.mark.parametrize("url", PUBLIC)
def test_what_holds_no_password_stays_as_it_is(url: str) -> None:
    assert not has_password(url)
    assert without_password(url, whole=True) == url
    assert without_password(f"no {url} here") == f"no {url} here"


@pytest.mark.parametrize(("url", "public"), [pair for pair in SECRET if "odbc" not in pair[0]])
def test_an_error_message_loses_the_passwords_of_its_urls(url: str, public: str) -> None:
    assert without_password(f"cannot reach '{url}': refused") == f"cannot reach '{public}': refused"


def test_a_password_in_a_list_of_words_is_hidden_in_messages() -> None:
    assert without_password("bad: host=db password=hunter2 user=me") == "bad: host=db password=… user=me"


@pytest.mark.parametrize("flag", ["data", "tracking_uri", "address", "weights", "warm_start"])
@pytest.mark.parametrize("url", ["s3://AKIA:hun/ter2@bucket/x", "https://ml/x?user=me&password=hunter2"])
def test_a_flag_with_a_password_is_refused_without_saying_it(flag: str, url: str) -> None:
    value: Any = (url,) if flag == "warm_start" else url

    with pytest.raises(ValueError, match=f"^--{flag.replace('_', '-')} holds a password") as refused:
        StudyConfig(**{"space": "demo", flag: value})

    assert "ter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("url", "public"), [pair for pair in SECRET if pair[0].startswith("postgresql://")])
def test_the_password_of_the_database_is_used_but_not_written_down(url: str, public: str) -> None:
    config = StudyConfig(space="demo", storage=url)

    written = json.dumps(_describe(config, {}))

    assert config.storage_url == url.replace("postgresql://", "postgresql+psycopg://")
    assert public.replace("postgresql://", "postgresql+psycopg://") in written
    assert not any(part in written for part in ("hunter", "ter2", "er2@"))


@pytest.mark.parametrize("url", ["postgresql://db/x?password=hunter2", "postgresql://me:hunter2@db/x"])
def test_a_job_is_not_submitted_with_the_password_of_its_database(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--storage holds a password") as refused:
        check_job_flags(["--space", "demo", "--runs-dir", "/r", "--storage", url])

    assert "hunter2" not in str(refused.value)


def test_a_variable_with_a_password_in_its_url_is_not_sent() -> None:
    with pytest.raises(ValueError, match=r"^--env PROXY: Ray writes") as refused:
        read_variables(["PROXY=http://me:hunter2@proxy"])

    assert "hunter2" not in str(refused.value)


def test_a_database_that_cannot_be_opened_is_named_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"cannot be opened|must be a URL") as refused:
        Records(
            "sqlite:////proc/no/such.db?password=hunter2",
            study="x",
            directions=["maximize"],
            metric="m",
            new=True,
        )

    assert "hunter2" not in str(refused.value)


def test_a_job_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(JobServerError) as refused:
        JobServer("http://me:hunter2@127.0.0.1:9").alive_nodes()

    assert "127.0.0.1:9" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@ml:5000/base", "http://ml:5000/base"),
        ("https://me:hunt/er2@ml/base", "https://ml/base"),
        ("postgresql://db/x?password=hunter2", "postgresql://db/x"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ],
)
def test_the_address_of_mlflow_is_printed_without_what_may_be_a_password(uri: str, shown: str) -> None:
    assert public_address(uri) == shown
