"""The manifest of a study's images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.data.datasets import ImageListing
from trainables.data.manifest import make_manifest, read_manifest

DIGESTS = [f"{number:064x}" for number in range(20)]


def make_listing(folder: str = "/data") -> ImageListing:
    return ImageListing(
        source=folder,
        paths=tuple(Path(folder, f"ü, {number}.jpg") for number in range(20)),
        labels=np.arange(20) % 2,
        classes=("cat", "dog"),
        splits=(None,) * 20,
    )


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = make_manifest(make_listing(), DIGESTS, seed=0)

    manifest.write_csv(tmp_path / "data.csv")
    again = read_manifest(tmp_path / "data.csv", ("cat", "dog"))

    assert again.paths == manifest.paths
    assert np.array_equal(again.labels, manifest.labels)
    assert np.array_equal(again.indices("val"), manifest.indices("val"))
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]
    assert (tmp_path / "data.csv").read_text().splitlines()[0] == "id,path,label,split"


def test_the_parts_hold_every_image_once() -> None:
    manifest = make_manifest(make_listing(), DIGESTS, seed=0)

    numbers = np.concatenate([manifest.indices(split) for split in ("train", "val", "test")])

    assert sorted(numbers.tolist()) == list(range(20))
    assert numbers.dtype == np.int64


def test_the_contents_follow_images_and_labels_but_neither_split_nor_order() -> None:
    listing = make_listing()
    contents = make_manifest(listing, DIGESTS, seed=0).contents
    backwards = replace(listing, paths=listing.paths[::-1], labels=listing.labels[::-1])
    relabelled = replace(listing, labels=1 - listing.labels)

    assert make_manifest(make_listing("/elsewhere"), DIGESTS, seed=1).contents == contents
    assert make_manifest(backwards, DIGESTS[::-1], seed=0).contents == contents
    assert make_manifest(relabelled, DIGESTS, seed=0).contents != contents
    assert make_manifest(listing, [*DIGESTS[1:], DIGESTS[1]], seed=0).contents != contents


def test_the_fingerprint_follows_content_and_parts_but_not_the_place() -> None:
    fingerprint = make_manifest(make_listing(), DIGESTS, seed=0).fingerprint

    assert make_manifest(make_listing("/elsewhere"), DIGESTS, seed=0).fingerprint == fingerprint
    assert make_manifest(make_listing(), DIGESTS, seed=1).fingerprint != fingerprint
    assert make_manifest(make_listing(), [*DIGESTS[1:], DIGESTS[0]], seed=0).fingerprint != fingerprint


def test_images_not_to_be_kept_are_left_out_before_the_cut() -> None:
    keep = np.arange(20) != 3

    manifest = make_manifest(make_listing(), DIGESTS, seed=0, keep=keep)

    assert len(manifest) == 19
    assert not any(path.name == "ü, 3.jpg" for path in manifest.paths)


def test_a_class_without_a_readable_image_is_named() -> None:
    with pytest.raises(ValueError, match="no readable image of dog"):
        make_manifest(make_listing(), DIGESTS, seed=0, keep=np.arange(20) % 2 == 0)


@pytest.mark.parametrize(
    "damage", ["id,path\n", "id,path,label,split\n1,/a,0,train\n", "id,path,label,split\n0,/a"]
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "data.csv").write_text(damage)

    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path / "data.csv", ("cat", "dog"))


def test_copies_of_an_image_under_two_labels_or_in_two_parts_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listing = replace(make_listing(), splits=("train", "val") * 5 + ("val", "train") * 5)
    digests = [DIGESTS[0], DIGESTS[0], *DIGESTS[2:12], DIGESTS[2], *DIGESTS[13:]]

    with caplog.at_level(logging.WARNING):
        make_manifest(listing, digests, seed=0)

    assert [record.getMessage() for record in caplog.records] == [
        "images that occur under two labels: 1, first /data/ü, 0.jpg and /data/ü, 1.jpg",
        "images that occur in two of the splits train, val and test: 2",
    ]
