"""The manifest of a study's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.data.datasets import ImageListing, leave_out
from trainables.data.datasets._listing import ListedImage
from trainables.data.datasets._listing import make_listing as make_listing_of
from trainables.data.manifest import describe_change, make_manifest, read_manifest, read_recorded_splits

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
    assert (tmp_path / "data.csv").read_text().splitlines()[0] == "id,path,label,split,group,digest,class"


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
    listing, keep = leave_out(make_listing(), None, readable=np.arange(20) != 3)

    assert len(listing.paths) == keep.sum() == 19
    assert not any(path.name == "ü, 3.jpg" for path in listing.paths)


def test_small_classes_are_left_out_by_name_and_the_others_renumbered() -> None:
    rows = [ListedImage(Path(f"{n}.png"), label, None, f"{n}.png") for n, label in enumerate("bacbcaccca")]

    listing, keep = leave_out(make_listing_of("here", rows), 3)

    assert keep.tolist() == [label != "b" for label in "bacbcaccca"]
    assert listing.classes == ("a", "c")
    assert listing.labels.tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
    assert listing.notes[-1].text == "classes with fewer than 3 images: 'b'"


@pytest.mark.parametrize(
    "damage", ["id,path\n", "id,path,label,split\n1,/a,0,train\n", "id,path,label,split\n0,/a"]
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "data.csv").write_text(damage)

    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path / "data.csv", ("cat", "dog"))


def test_copies_of_an_image_under_two_labels_or_in_two_splits_are_noted() -> None:
    listing = replace(make_listing(), splits=("train", "val") * 5 + ("val", "train") * 5)
    digests = [DIGESTS[0], DIGESTS[0], *DIGESTS[2:12], DIGESTS[2], *DIGESTS[13:]]

    notes = [note.text for note in make_manifest(listing, digests, seed=0).notes]

    assert notes[0] == "2 images with the content of another, kept in one split"
    assert notes[1].startswith("1 image under two labels: data/ü, 0.jpg and data/ü, 1.jpg")
    assert notes[2].startswith("2 of 10 images in val have a copy")


def test_copies_and_near_copies_and_groups_are_cut_into_one_split() -> None:
    listing = replace(make_listing(), groups=("", "", "g", "g", "g", *[""] * 15))
    digests = [DIGESTS[5], *DIGESTS[1:]]

    for seed in range(10):
        manifest = make_manifest(listing, digests, seed=seed, near_copies=[(5, 7), (10, 11)])

        assert manifest.splits[0] == manifest.splits[5] == manifest.splits[7]
        assert len(set(manifest.splits[2:5])) == 1
        assert manifest.splits[10] == manifest.splits[11]
        assert manifest.groups.tolist()[:8] == [0, 1, 2, 2, 2, 0, 3, 0]
        assert len(manifest.leaked) == 0


def test_a_study_goes_on_with_the_split_that_it_began_with(tmp_path: Path) -> None:
    begun = make_manifest(make_listing(), DIGESTS, seed=5)
    begun.write_csv(tmp_path / "data.csv")
    recorded = read_recorded_splits(tmp_path / "data.csv", DIGESTS, ("cat", "dog"))

    again = make_manifest(make_listing("/moved"), DIGESTS, seed=0, recorded=lambda _: recorded)

    assert again.fingerprint == begun.fingerprint
    assert read_recorded_splits(tmp_path / "data.csv", DIGESTS[::-1], ("cat", "dog")) is None
    assert read_recorded_splits(tmp_path / "none.csv", DIGESTS, ("cat", "dog")) is None


def test_what_was_replaced_removed_and_added_is_named_and_what_moved_is_not(tmp_path: Path) -> None:
    listing = make_listing()
    make_manifest(listing, DIGESTS, seed=0).write_csv(tmp_path / "data.csv")
    moved = [Path("/moved") / path.name for path in listing.paths]

    assert describe_change(tmp_path / "data.csv", moved, DIGESTS) == ""
    changed = [*listing.paths[:-1], Path("/data/new.png")]
    found = describe_change(tmp_path / "data.csv", changed, ["other", *DIGESTS[1:-1], "new"])
    assert found.startswith("1 replaced (data/ü, 0.jpg), 1 removed (data/")
    assert found.endswith("1 added (data/new.png)")


def test_names_that_are_no_utf_8_are_written_and_read_back(tmp_path: Path) -> None:
    listing = replace(make_listing(), paths=(Path("/data/na\udcefve.jpg"), *make_listing().paths[1:]))
    make_manifest(listing, DIGESTS, seed=0).write_csv(tmp_path / "data.csv")

    assert read_manifest(tmp_path / "data.csv", ("cat", "dog")).paths == listing.paths
