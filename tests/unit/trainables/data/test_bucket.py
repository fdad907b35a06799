"""Images in a bucket, on a local S3 server: listed like a folder, copied once to each machine."""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from fsspec.registry import _registry

from contract.messages import StudySettings
from tests.stand_in_bucket import point_to, running_bucket_server
from tests.tiny_data import write_images
from trainables.data.datasets import _bucket, copy_missing, find_images
from trainables.images.preparation import prepare_images

URL = "s3://photos/flowers"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_bucket_server() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    point_to(server, monkeypatch)
    forget_connections()
    yield Bucket()
    forget_connections()


class Bucket:
    """A fresh bucket `photos` on the server."""

    def __init__(self) -> None:
        self.objects = boto3.resource("s3").Bucket("photos")
        self.objects.create()
        self.objects.objects.all().delete()

    def put(self, folder: Path, prefix: str = "flowers") -> None:
        for path in sorted(folder.rglob("*.png")):
            self.objects.upload_file(str(path), f"{prefix}/{path.relative_to(folder)}")


def forget_connections() -> None:
    """File systems are kept for the life of a process; the next test has other settings."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def copies(cache_dir: Path) -> list[Path]:
    return sorted((cache_dir / "datasets").rglob("*.png"))


def test_a_bucket_gives_the_same_study_as_the_folder_it_was_filled_from(
    bucket: Bucket, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "images", images_per_class=10)
    bucket.put(folder)
    common = {"fits": ["crop"], "image_size": 32, "budget_gb": 1.0, "seed": 0, "refuse_bad": True}

    here, _ = prepare_images(
        find_images(str(folder), cache_dir=tmp_path / "a"), cache_dir=tmp_path / "a", **common
    )
    there, _ = prepare_images(find_images(URL, cache_dir=tmp_path / "b"), cache_dir=tmp_path / "b", **common)

    assert there.fingerprint == here.fingerprint
    assert there.classes == here.classes
    assert len(copies(tmp_path / "b")) == 30


def test_split_folders_nested_folders_and_hidden_objects_follow_the_rules_of_local_folders(
    bucket: Bucket, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    source = write_images(tmp_path / "source", images_per_class=1) / "red" / "00.png"
    for name in ("train/cat/b", "train/cat/a/deep", "train/dog/x", "val/cat/y", "test/dog/z", "stray"):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    bucket.put(folder)
    bucket.objects.put_object(Key="flowers/train/.hidden/h.png", Body=b"x")
    bucket.objects.put_object(Key="flowers/train/../../escaped.png", Body=b"x")
    bucket.objects.put_object(Key="flowers/train/cat/notes.txt", Body=b"x")

    there = find_images(URL + "/", cache_dir=tmp_path)
    here = find_images(str(folder), cache_dir=tmp_path)

    assert [path.name.partition("~")[0] for path in there.paths] == [path.stem for path in here.paths]
    assert there.splits == here.splits
    assert there.labels.tolist() == here.labels.tolist()
    assert all((tmp_path / "datasets") in path.parents for path in there.paths)
    assert not list(tmp_path.rglob("escaped*"))


def test_only_what_changed_is_copied_again_and_under_another_name(bucket: Bucket, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", images_per_class=2)
    bucket.put(folder)
    before = find_images(URL, cache_dir=tmp_path).paths
    stamps = {path: path.stat().st_mtime_ns for path in before}
    (folder / "red" / "00.png").write_bytes((folder / "blue" / "00.png").read_bytes())
    bucket.put(folder)

    after = find_images(URL, cache_dir=tmp_path).paths

    assert len(set(before) - set(after)) == 1
    assert all(path.stat().st_mtime_ns == stamps[path] for path in after if path in stamps)


@pytest.mark.slow
def test_a_node_without_copies_makes_its_own_at_the_paths_of_data_csv(bucket: Bucket, tmp_path: Path) -> None:
    import torch

    from trainables.activations.shared import load_splits

    bucket.put(write_images(tmp_path / "images", images_per_class=10))
    cache = tmp_path / "cache"
    manifest, _ = prepare_images(
        find_images(URL, cache_dir=cache),
        fits=["crop"],
        image_size=32,
        cache_dir=cache,
        budget_gb=1.0,
        seed=0,
        refuse_bad=True,
    )
    manifest.write_csv(tmp_path / "data.csv")
    cache.rename(tmp_path / "the driver's cache, on another machine")
    settings = StudySettings(
        study_directory=str(tmp_path),
        classes=manifest.classes,
        weights="random",
        image_size=32,
        seed=0,
        metric="val_accuracy",
        maximize=True,
        cache_directory=str(cache),
        cache_gigabytes=1.0,
        num_trials=1,
        threads=1,
        data_source=URL,
    )

    splits = load_splits(settings, "crop", torch.device("cpu"))

    assert len(splits["train"].ids) == len(manifest.indices("train"))
    assert all(path.is_file() for path in manifest.paths)


@pytest.mark.slow
def test_of_several_processes_of_a_node_one_copies(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put(write_images(tmp_path / "images", images_per_class=40))
    paths = find_images(URL, cache_dir=tmp_path).paths
    for path in paths:
        path.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    counts = context.Queue()

    workers = [context.Process(target=copy_and_count, args=(paths, tmp_path, counts)) for _ in range(2)]
    for worker in workers:
        worker.start()
    copied = sorted(counts.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)

    assert copied == [0, len(paths)]
    assert not list(tmp_path.rglob("*.partial"))


def copy_and_count(paths: list[Path], cache_dir: Path, counts: multiprocessing.Queue[int]) -> None:
    done = [0]
    copy_missing(URL, paths, cache_dir=cache_dir, progress=lambda number, _: done.append(number))
    counts.put(done[-1])


def test_an_object_that_went_away_during_a_study_is_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put(write_images(tmp_path / "images", images_per_class=2))
    paths = find_images(URL, cache_dir=tmp_path).paths
    paths[0].unlink()
    bucket.objects.Object("flowers/blue/00.png").delete()

    with pytest.raises(
        OSError, match=r"1 images were changed or removed since the study began, first blue/00"
    ):
        copy_missing(URL, paths, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://photos/nothing", "cannot read s3://photos/nothing: no such bucket or folder"),
        ("s3://no-such-bucket/x", "no such bucket or folder"),
        ("s3://photos/list.csv", "CSV files are read from a file system"),
        ("s3://me:secret@photos/x", "a URL with a password would end up in logs"),
        ("gopher://photos/x", "Protocol not known: gopher; pass s3://"),
    ],
)
def test_a_url_that_is_wrong_is_refused_in_one_line(
    bucket: Bucket, tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message) as refused:
        find_images(url, cache_dir=tmp_path)

    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value).replace("AWS_SECRET", "")


def test_without_credentials_the_way_out_is_told(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget_connections()

    with pytest.raises(OSError, match="no credentials: give the nodes a role, or set AWS_ACCESS_KEY_ID"):
        find_images(URL, cache_dir=tmp_path)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_connections()
    monkeypatch.delitem(_registry, "s3", raising=False)  # it keeps what it imported before
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(ValueError, match="s3fs is not installed: pip install s3fs"):
        find_images(URL, cache_dir=tmp_path)


def test_a_server_that_never_answers_does_not_hang_us(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bucket, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget_connections()

        # Only we give up after 1 s: the cloud's library has limits of its own, and says other words.
        with pytest.raises(OSError, match="no answer within 1 s: check the network"):
            find_images(URL, cache_dir=tmp_path)


def test_a_full_disk_is_told_before_anything_is_copied(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(write_images(tmp_path / "images", images_per_class=2))
    monkeypatch.setattr(_bucket.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))

    with pytest.raises(OSError, match=r"do not fit into .* choose another disk with --cache-dir"):
        find_images(URL, cache_dir=tmp_path)

    assert not copies(tmp_path)
