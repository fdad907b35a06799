"""What tables say: which column is which, how labels and paths are read, and what is pointed out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trainables.data.datasets import ImageListing, find_images


def make_table(folder: Path, text: str, *, name: str = "list.csv", files: str = "a.jpg b.jpg c.jpg") -> Path:
    for file in files.split():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    table = folder / name
    table.write_text(text, encoding="utf-8")
    return table


def read(table: Path, **options: object) -> ImageListing:
    return find_images(str(table), cache_dir=table.parent / "cache", **options)  # type: ignore[arg-type]


def notes(listing: ImageListing) -> str:
    return "\n".join(f"{note.kind}: {note.text}" for note in listing.notes)


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("set", ("train", "test", "val"), ("train", "test", "val")),
        ("Partition", ("Training", "Testing", "dev"), ("train", "test", "val")),
        ("subset", ("train", "holdout", ""), ("train", "test", None)),
        ("is_valid", ("0", "1", "False"), ("train", "val", "train")),
        ("is_test", ("0", "1", "0"), (None, "test", None)),
        ("is_training_image", ("1", "0", "1"), ("train", "test", "train")),
        ("is_train,is_val", ("1,0", "0,1", "0,0"), ("train", "val", None)),
    ],
)
def test_a_split_column_by_another_name_is_understood(
    tmp_path: Path, header: str, cells: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    rows = "\n".join(
        f"{name}.jpg,{label},{cell}" for name, label, cell in zip("abc", "xyx", cells, strict=True)
    )
    listing = read(make_table(tmp_path, f"path,label,{header}\n{rows}\n"))

    assert listing.splits == expected
    assert "as split" in notes(listing)


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    table = make_table(tmp_path, "path,label,patient_id,fold\na.jpg,x,7,1\nb.jpg,y,8,2\n")

    assert (
        "columns not used: 'patient_id', 'fold'; if images of one patient_id belong together, pass --group-by"
        in notes(read(table))
    )


@pytest.mark.parametrize(
    "header", ["filename,class", "image_id,species", "File Name,Category", "img,target", "image_path,dx"]
)
def test_columns_by_their_usual_names_are_understood(tmp_path: Path, header: str) -> None:
    listing = read(make_table(tmp_path, f"{header}\na.jpg,x\nb.jpg,y\n"))

    assert listing.classes == ("x", "y")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_understood_and_said(tmp_path: Path, separator: str) -> None:
    text = "path,label\na.jpg,x\nb.jpg,y\n".replace(",", separator)
    listing = read(make_table(tmp_path, text))

    assert listing.classes == ("x", "y")
    assert "separated by" in notes(listing)


def test_a_table_without_a_header_is_understood_and_said(tmp_path: Path) -> None:
    listing = read(make_table(tmp_path, "x,a.jpg,train\ny,b.jpg,val\nx,c.jpg,train\n"))

    assert listing.classes == ("x", "y")
    assert listing.splits == ("train", "val", "train")
    assert "no header: its columns are read as label, path, split" in notes(listing)


def test_a_table_without_a_header_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no header: put a first line"):
        read(make_table(tmp_path, "a.jpg,x,7\nb.jpg,y,8\n"))


@pytest.mark.parametrize(
    "paths",
    [
        ("images\\a.jpg", "images\\b.jpg"),
        ("C:\\Users\\bob\\data\\images\\a.jpg", "C:\\Users\\bob\\data\\images\\b.jpg"),
        ("/home/bob/data/images/a.jpg", "/home/bob/data/images/b.jpg"),
        ("a.jpg", "b.jpg"),
        ("a", "b"),
        ("A", "B"),
    ],
)
def test_paths_from_elsewhere_are_found_and_said(tmp_path: Path, paths: tuple[str, str]) -> None:
    text = f"path,label\n{paths[0]},x\n{paths[1]},y\n"
    listing = read(make_table(tmp_path, text, files="images/a.jpg images/b.jpg"))

    assert listing.paths == (tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    assert "not there as written, 2 paths read like" in notes(listing)


def test_names_that_would_become_one_file_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of its images exists"):
        read(make_table(tmp_path, "path,label\n/x/cat/a.jpg,x\n/x/dog/a.jpg,y\n", files="a.jpg"))


def test_urls_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a URL; download the images"):
        read(make_table(tmp_path, "path,label\nhttp://127.0.0.1/a.jpg,x\nb.jpg,y\n"))


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    listing = read(make_table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\nc.jpg,\n"))

    assert len(listing.paths) == 2
    assert "1 row without a path or a label, the first in line 4" in notes(listing)


@pytest.mark.parametrize("name", ["None", "NA", "True", "null", "nan"])
def test_a_class_called_none_na_or_true_survives(tmp_path: Path, name: str) -> None:
    listing = read(make_table(tmp_path, f"path,label\na.jpg,{name}\nb.jpg,y\n"))

    assert set(listing.classes) == {name, "y"}


def test_labels_that_look_alike_are_pointed_out(tmp_path: Path) -> None:
    text = 'path,label\na.jpg,1\nb.jpg,1.0\nc.jpg,01\nd.jpg,Cat\ne.jpg,"cat "\nf.jpg,nan\n'
    found = notes(read(make_table(tmp_path, text, files="a.jpg b.jpg c.jpg d.jpg e.jpg f.jpg")))

    assert "'01', '1', '1.0' are different classes" in found
    assert "'Cat', 'cat' are different classes" in found
    assert "'nan' is a class here" in found


@pytest.mark.parametrize("cell", ['"cat,dog"', "cat;dog", "cat|dog"])
def test_several_labels_in_a_cell_are_said_not_to_be_supported(tmp_path: Path, cell: str) -> None:
    listing = read(make_table(tmp_path, f"path,label\na.jpg,cat\nb.jpg,dog\nc.jpg,{cell}\n"))

    assert "look like several labels in one cell" in notes(listing)
    assert "images with several labels at once are not supported" in notes(listing)


def test_one_file_under_two_labels_is_said(tmp_path: Path) -> None:
    listing = read(make_table(tmp_path, "path,label\na.jpg,x\na.jpg,y\nb.jpg,y\nb.jpg,y\n"))

    assert len(listing.paths) == 3
    assert "1 image with several labels, a.jpg for one" in notes(listing)
    assert "1 repeated row, each naming an image with its label once more" in notes(listing)


def test_a_column_for_every_class_is_understood(tmp_path: Path) -> None:
    listing = read(make_table(tmp_path, "image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\nc,0.0,1.0\n"))

    assert listing.classes == ("MEL", "NV")
    assert listing.labels.tolist() == [0, 1, 1]


def test_columns_that_give_several_labels_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images with several labels are not supported"):
        read(make_table(tmp_path, "path,beach,sunset\na.jpg,1,1\nb.jpg,0,1\n"))


def test_a_group_column_is_read_and_another_on_request(tmp_path: Path) -> None:
    table = make_table(tmp_path, "path,label,group,Patient\na.jpg,x,1,p\nb.jpg,y,2,p\nc.jpg,x,,q\n")

    assert read(table).groups == ("1", "2", "")
    assert read(table, group_by="patient").groups == ("p", "p", "q")
    assert read(table, group_by=r"([ab])\.").groups == ("a", "b", "")


def test_a_pipe_in_a_table_is_left_out_by_name(tmp_path: Path) -> None:
    table = make_table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\npipe.jpg,x\n")
    os.mkfifo(tmp_path / "pipe.jpg")

    listing = read(table)

    assert len(listing.paths) == 2
    assert "1 row without a regular file: 'pipe.jpg'" in notes(listing)


def test_a_study_s_own_table_reads_back_with_its_class_names(tmp_path: Path) -> None:
    new = make_table(
        tmp_path, "id,path,label,split,group,digest,class\n0,a.jpg,0,train,0,d0,cat\n1,b.jpg,1,val,1,d1,dog\n"
    )
    listing = read(new)
    assert listing.classes == ("cat", "dog")
    assert listing.splits == ("train", "val")
    assert listing.groups == ("0", "1")

    old = make_table(
        tmp_path / "old", "id,path,label,split\n0,a.jpg,0,train\n1,b.jpg,1,val\n", name="data.csv"
    )
    (old.parent / "study.json").write_text(json.dumps({"data": {"classes": ["cat", "dog"]}}))
    assert read(old).classes == ("cat", "dog")
