"""Folders of synthetic images: what is read from them, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contract.synthetic_images import SyntheticClass, SyntheticImages
from trainables.data.manifest import Manifest
from trainables.data.synthetic import (
    SyntheticTable,
    check_not_held_out,
    check_origin,
    count_added,
    count_all_added,
    describe_synthetic,
    list_synthetic,
    read_synthetic,
)

CLASSES = ("blue", "green", "red")


def write_folder(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number:05d}.png").write_bytes(b"")
    return folder


def save_list(folder: Path, rows: Sequence[SyntheticClass], **changes: object) -> SyntheticImages:
    facts = {"source": "photos", "fingerprint": "f" * 16, "split_seed": 0, "image_size": 32}
    made = SyntheticImages(generator="a GAN", seed=0, classes=tuple(rows), **facts | changes)  # type: ignore[arg-type]
    made.save(folder)
    return made


def make_manifest(fingerprint: str) -> Manifest:
    return Manifest(
        paths=(Path("a.png"), Path("b.png"), Path("c.png")),
        labels=np.arange(3),
        splits=np.array(["train", "val", "test"]),
        classes=CLASSES,
        contents="",
        fingerprint=fingerprint,
        groups=np.arange(3),
        digests=("a" * 64, "b" * 64, "c" * 64),
    )


def test_the_first_images_of_a_share_are_those_of_every_smaller_one_and_spread_over_the_classes(
    tmp_path: Path,
) -> None:
    listing = list_synthetic(write_folder(tmp_path, {"red": 8, "blue": 3}), CLASSES)

    for share in (0.0, 0.25, 0.3, 0.5, 1.0):
        labels = listing.labels[: count_all_added(share, listing.labels)]
        wanted = [count_added(share, number) for number in (3, 0, 8)]
        assert np.bincount(labels, minlength=3).tolist() == wanted
    names = [path.name for path in listing.paths if path.parent.name == "red"]
    assert names == sorted(names)
    assert [count_added(share, 8) for share in (0, 0.25, 0.5, 1)] == [0, 2, 4, 8]


def test_a_list_says_which_folder_is_which_class(tmp_path: Path) -> None:
    write_folder(tmp_path, {"r_d": 2})
    save_list(tmp_path, [SyntheticClass(name="red", folder="r_d", images=2)])

    listing = list_synthetic(tmp_path, CLASSES)

    assert listing.labels.tolist() == [2, 2]
    assert describe_synthetic(listing, CLASSES) == ["synthetic: 2 images by a GAN, for training only: red 2"]


def test_images_of_another_generator_are_taken_with_a_word_on_what_is_not_known(tmp_path: Path) -> None:
    listing = list_synthetic(write_folder(tmp_path, {"red": 2}), CLASSES)

    check_origin(listing, make_manifest("any"), seed=0)
    lines = describe_synthetic(listing, CLASSES)

    assert listing.made is None
    assert len(lines) == 2 and "scores will be too high" in lines[1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"reed": 1}, r"the class 'reed', which the data have not: did you mean red"),
        ({"red": 0}, r"no image in a class folder: .*python -m trainables synthesize"),
        ({"red": 1, ".training": 0}, r"is not finished: run its command"),
        ({}, r"is no folder: pass the --out of python -m trainables synthesize"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, counts: dict[str, int], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        list_synthetic(write_folder(tmp_path / "made", counts), CLASSES)

    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"split_seed": 7, "train_digests": ("b" * 16,)},
            "with --seed 7, not 0 .*1 image that it learned from",
        ),
        ({"train_digests": ("a" * 16,)}, "with other images or splits"),
    ],
)
def test_images_made_from_another_split_are_refused_with_what_would_leak(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    write_folder(tmp_path, {"red": 1})
    save_list(tmp_path, [SyntheticClass(name="red", folder="red", images=1)], **changes)
    listing = list_synthetic(tmp_path, CLASSES)

    check_origin(listing, make_manifest("f" * 16), seed=0)
    with pytest.raises(ValueError, match=expected):
        check_origin(listing, make_manifest("0" * 16), seed=0)


def test_an_image_that_is_validated_must_not_be_among_them() -> None:
    table = SyntheticTable(paths=(Path("x.png"),), labels=np.array([0]), digests=("b" * 64,))

    with pytest.raises(ValueError, match=r"1 image of the data's own validation or test split \(x.png\)"):
        check_not_held_out(table, make_manifest(""))


def test_the_studys_table_is_read_as_it_was_written_and_named_where_it_is_missing(tmp_path: Path) -> None:
    table = SyntheticTable(
        paths=(Path("/x,y.png"), Path("/z.png")), labels=np.array([2, 0]), digests=("1", "2")
    )
    table.write_csv(tmp_path / "synthetic.csv")

    found = read_synthetic(tmp_path / "synthetic.csv")

    assert (found.paths, found.digests, found.fingerprint) == (table.paths, table.digests, table.fingerprint)
    assert found.labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match="synthetic_share above 0 needs a study with --synthetic"):
        read_synthetic(tmp_path / "other.csv")
