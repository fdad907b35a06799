"""Photos in a bucket, on a local S3 server, are listed in order and read without a copy on the disk."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from serving.__main__ import main
from serving.prediction import bucket_photos
from tests.stand_in_bucket import point_to, running_bucket_server
from tests.tiny_models import write_photo, write_tiny_model

KEYS = ("b/2.png", "b/a[1].png", "b/c/100%#1?.png", "b/c/ü x.jpg", "a.png")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_bucket_server() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    point_to(server, monkeypatch)
    forget_connections()
    objects = boto3.resource("s3").Bucket("photos")
    objects.create()
    objects.objects.all().delete()
    for key in KEYS:
        content = write_photo(tmp_path / f"x{Path(key).suffix}", "green").read_bytes()
        objects.put_object(Key=key, Body=content)
    for key in ("b/", "b/.hidden.png", "b/@eaDir/x.png", "b/notes.txt"):
        objects.put_object(Key=key, Body=b"")
    yield "s3://photos"
    forget_connections()


def forget_connections() -> None:
    import s3fs

    bucket_photos.forget_connections()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny").directory)


def predict(model: str, tmp_path: Path, *words: str) -> list[tuple[str, str, str]]:
    out = tmp_path / "out.csv"
    assert main(["predict", model, *words, "--out", str(out), "--overwrite"]) in (0, 1)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["path"].removeprefix("s3://photos/"), row["label"], row["error"]) for row in rows]


def test_a_folder_of_a_bucket_is_walked_like_a_local_one(
    bucket: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predict(model, tmp_path, f"{bucket}/b/", f"{bucket}/a.png", f"{bucket}/gone.png")

    assert [(path, label) for path, label, _ in rows] == [
        *((key, "green") for key in KEYS),
        ("gone.png", ""),
    ]
    assert rows[-1][2] == "no such object"
    said = capsys.readouterr().out
    assert "1 file without an image's suffix: 1 .txt" in said


def test_patterns_and_tables_name_objects(bucket: str, model: str, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{bucket}/a.png\n{bucket}/b/gone.png\n", encoding="utf-8")

    assert [path for path, _, _ in predict(model, tmp_path, f"{bucket}/b/*.png")] == ["b/2.png", "b/a[1].png"]
    rows = predict(model, tmp_path, "--csv", str(table))
    assert rows == [("a.png", "green", ""), ("b/gone.png", "", "no such object")]


def test_a_wrong_address_is_refused_in_one_line(
    bucket: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, message in (
        ("s3://photos/none", "no such bucket or folder"),
        ("s3://none/x", "no such bucket or folder"),
        ("s3://me:secret@photos/x", "a URL with a password"),
        ("gopher://photos/x", "pass s3://bucket/folder"),
    ):
        capsys.readouterr()
        assert main(["predict", model, url, "--out", str(tmp_path / "o.csv")]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and "me:secret" not in error
    assert not (tmp_path / "o.csv").exists()
