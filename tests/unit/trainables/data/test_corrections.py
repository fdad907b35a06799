"""Corrections do what a person wrote into the review file, and name the line they cannot follow."""

from __future__ import annotations

import unicodedata
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from trainables.data.corrections import ReviewRow, apply_corrections, read_review, write_review
from trainables.data.datasets import ImageListing, find_images

HEADER = "path,given,suggested,why,action\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "cat ", "Käfer", "dog"):
        for number in range(3):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / "data"


@pytest.fixture
def listing(folder: Path) -> ImageListing:
    return find_images(str(folder), cache_dir=folder.parent / "cache")


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    file = folder.parent / "labels.review.csv"
    file.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def labels(listing: ImageListing) -> dict[str, str]:
    return {
        f"{path.parent.name}/{path.name}": listing.classes[label]
        for path, label in zip(listing.paths, listing.labels, strict=True)
    }


def test_an_image_is_relabelled_dropped_or_kept(folder: Path, listing: ImageListing) -> None:
    file = write(
        folder, "dog/0.png,dog,cat,,relabel", "dog/1.png,dog,,blurred, Drop ", "dog/2.png,dog,cat,,KEEP"
    )

    corrected, line = apply_corrections(listing, file)

    before, after = labels(listing), labels(corrected)
    assert after == {name: label for name, label in before.items() if name != "dog/1.png"} | {
        "dog/0.png": "cat"
    }
    assert "1 relabelled, 1 dropped, 1 kept" in line
    assert str(file) in line


def test_rows_without_an_action_change_nothing_even_if_they_are_wrong(
    folder: Path, listing: ImageListing
) -> None:
    file = write(folder, "dog/0.png,dog,cat,,", "nowhere.png,dog,bird,,  ")

    corrected, line = apply_corrections(listing, file)

    assert labels(corrected) == labels(listing)
    assert "0 relabelled, 0 dropped, 0 kept" in line


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("dog/9.png,dog,cat,,drop", "none of the 12 images"),
        ("dog/0.png,dog,,,relabel", "under suggested"),
        ("dog/0.png,dog,bird,,relabel", "no class 'bird'"),
        ("dog/0.png,dog,dogg,,relabel", "did you mean dog"),
        ("dog/0.png,dog,cat,,relable", "did you mean relabel"),
        ("dog/0.png,cat,,,drop", "is 'dog' now, not 'cat'"),
        ("dog/1.png,dog,,,drop", "line 2: decide"),
    ],
)
def test_a_row_that_cannot_be_followed_is_named_by_file_and_line(
    row: str, expected: str, folder: Path, listing: ImageListing
) -> None:
    file = write(folder, "dog/1.png,dog,,,keep", row)

    with pytest.raises(ValueError, match=r"labels.review.csv, line 3: ") as raised:
        apply_corrections(listing, file)

    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_same_decision_twice_is_no_contradiction(folder: Path, listing: ImageListing) -> None:
    file = write(folder, "dog/0.png,dog,cat,,relabel", f"{folder}/dog/0.png,,cat,again,relabel")

    corrected, line = apply_corrections(listing, file)

    assert labels(corrected)["dog/0.png"] == "cat"
    assert "1 relabelled" in line


@pytest.mark.parametrize("action", ["drop", "relabel"])
def test_a_class_that_would_lose_all_its_images_is_refused(
    action: str, folder: Path, listing: ImageListing
) -> None:
    file = write(folder, *(f"dog/{number}.png,dog,cat,,{action}" for number in range(3)))

    with pytest.raises(ValueError, match="leaves no image of 'dog'"):
        apply_corrections(listing, file)


def test_paths_are_found_below_the_folder_whole_and_after_it_has_moved(
    folder: Path, listing: ImageListing
) -> None:
    file = write(
        folder,
        "./dog/0.png,dog,,,drop",
        f"{folder}/cat/0.png,cat,,,drop",
        "/elsewhere/old/data/cat/1.png,cat,,,drop",
    )

    corrected, _ = apply_corrections(listing, file)

    assert set(labels(listing)) - set(labels(corrected)) == {"dog/0.png", "cat/0.png", "cat/1.png"}


def test_composed_and_decomposed_accents_are_the_same_and_blanks_in_class_names_count(
    folder: Path, listing: ImageListing
) -> None:
    decomposed = unicodedata.normalize("NFD", "Käfer")
    file = write(
        folder, f"{decomposed}/0.png,{decomposed},cat ,,relabel", f"dog/0.png,dog,{decomposed},,relabel"
    )

    corrected, _ = apply_corrections(listing, file)

    assert labels(corrected)["Käfer/0.png"] == "cat "
    assert unicodedata.normalize("NFC", labels(corrected)["dog/0.png"]) == "Käfer"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_file_that_a_spreadsheet_saved_its_own_way_is_read(
    delimiter: str, folder: Path, listing: ImageListing
) -> None:
    file = write(folder, header="\ufeff" + "Path,Given,Suggested,Why,Action\r\n".replace(",", delimiter))
    with file.open("ab") as more:
        more.write("Käfer/0.png,Käfer,dog,,relabel\r\n".replace(",", delimiter).encode())

    corrected, _ = apply_corrections(listing, file)

    assert labels(corrected)["Käfer/0.png"] == "dog"


def test_every_field_of_the_listing_follows_the_images(folder: Path, listing: ImageListing) -> None:
    per_image = {
        "splits": tuple(f"s{number}" for number in range(12)),
        **{
            field.name: tuple(f"{field.name}{number}" for number in range(12))
            for field in fields(listing)
            if field.name in ("names", "groups")
        },
    }
    file = write(folder, "dog/0.png,dog,,,drop")
    dropped = [path.parent.name + path.name for path in listing.paths].index("dog0.png")

    corrected, _ = apply_corrections(replace(listing, **per_image), file)

    kept = np.delete(np.arange(12), dropped).tolist()
    assert corrected.paths == tuple(listing.paths[number] for number in kept)
    assert corrected.labels.tolist() == listing.labels[kept].tolist()
    assert corrected.classes == listing.classes
    for name, values in per_image.items():
        assert getattr(corrected, name) == tuple(values[number] for number in kept)


def test_a_file_that_stands_under_two_labels_is_corrected_where_the_given_one_fits(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    table = tmp_path / "data.csv"
    table.write_text("path,label\na.png,cat\na.png,dog\nb.png,cat\nc.png,dog\n")
    listing = find_images(str(table), cache_dir=tmp_path / "cache")
    file = write(tmp_path / "x", "a.png,dog,,,drop")

    corrected, _ = apply_corrections(listing, file)

    assert [path.name for path in corrected.paths] == ["a.png", "b.png", "c.png"]
    assert [corrected.classes[label] for label in corrected.labels] == ["cat", "cat", "dog"]


def test_a_relabelled_image_may_be_found_with_its_new_class(folder: Path, listing: ImageListing) -> None:
    """Its folder was put right by hand meanwhile."""
    file = write(folder, "dog/0.png,cat,dog,,relabel")

    corrected, line = apply_corrections(listing, file)

    assert labels(corrected) == labels(listing)
    assert "0 relabelled" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"path,label\na,b\n", "lacks the column suggested and action"), (b"", "lacks the column path")],
)
def test_a_file_that_is_no_review_file_is_refused(
    content: bytes, expected: str, tmp_path: Path, listing: ImageListing
) -> None:
    file = tmp_path / "other.csv"
    file.write_bytes(content)

    with pytest.raises(ValueError, match=expected):
        apply_corrections(listing, file)
    with pytest.raises(ValueError, match="cannot read the corrections"):
        apply_corrections(listing, tmp_path / "missing.csv")


def test_what_is_written_is_read_back_and_no_formula_stands_in_front(tmp_path: Path) -> None:
    rows = [
        ReviewRow('=cmd|x!A1/"a", b.png', "cat ", "", "why; not", "drop"),
        ReviewRow("caf\udce9/1.png", "Käfer", "dog", "two\nlines"),
    ]
    file = tmp_path / "labels.review.csv"

    write_review(rows, file)
    again = read_review(file)

    assert [replace(row, line=0, path=row.path.removeprefix("./")) for row in again] == rows
    assert b"\n=" not in file.read_bytes()
