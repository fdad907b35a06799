"""Folders, CSV files and torchvision's sets as sources of images."""

from __future__ import annotations

import csv
import os
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from trainables.data.datasets import find_images, torchvision_sets


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_csv(path: Path, *rows: tuple[str, ...]) -> str:
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return str(path)


def test_a_folder_of_class_folders_is_listed_with_every_suffix_and_depth(tmp_path: Path) -> None:
    touch(tmp_path / "Märzveilchen" / "deep" / "one.JPG")
    touch(tmp_path / "Märzveilchen" / "two.jpeg")
    touch(tmp_path / "花" / "three.PNG")
    for ignored in ("花/.hidden.png", "花/notes.txt", ".cache/four.png", "stray.png"):
        touch(tmp_path / ignored)
    (tmp_path / "empty").mkdir()

    listing = find_images(str(tmp_path), cache_dir=tmp_path)

    assert listing.classes == ("Märzveilchen", "花")
    assert [path.name for path in listing.paths] == ["two.jpeg", "one.JPG", "three.PNG"]
    assert listing.labels.tolist() == [0, 0, 1]
    assert set(listing.splits) == {None}


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_split_folders_above_the_classes_are_kept(tmp_path: Path, validation: str) -> None:
    for split in ("train", validation, "test"):
        for name in ("cat", "dog"):
            touch(tmp_path / split / name / "x.jpg")

    listing = find_images(str(tmp_path), cache_dir=tmp_path)

    assert listing.classes == ("cat", "dog")
    assert sorted(listing.splits, key=str) == ["test", "test", "train", "train", "val", "val"]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        touch(tmp_path / name / "x.jpg")

    listing = find_images(str(tmp_path), cache_dir=tmp_path)

    assert listing.classes == ("bus", "car", "train")


def test_symbolic_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    touch(tmp_path / "elsewhere" / "a.jpg")
    touch(data / "cat" / "b.jpg")
    (data / "dog").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "loop").symlink_to(data / "cat")

    listing = find_images(str(data), cache_dir=tmp_path)

    assert [path.name for path in listing.paths] == ["b.jpg", "a.jpg"]


def test_numbered_classes_are_sorted_by_value(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        touch(tmp_path / name / "x.jpg")

    assert find_images(str(tmp_path), cache_dir=tmp_path).classes == ("2", "9", "10")


def test_a_csv_with_relative_paths_and_splits_is_listed(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    source = write_csv(
        tmp_path / "list.csv", ("Label", "path ", "split"), ("x", "a.jpg", "Valid"), ("y", "b.jpg", "")
    )

    listing = find_images(source, cache_dir=tmp_path)

    assert listing.paths == (tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert listing.classes == ("x", "y")
    assert listing.splits == ("val", None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("where", "label"), ("a", "x")], "lacks the column path; expected path,label"),
        ([("a", "b"), ("1", "2")], "lacks the column path and label"),
        ([], "lists no images"),
        ([("path", "label")], "lists no images"),
        ([("path", "label"), ("a.jpg", "")], "no row has a path and a label"),
        ([("path", "label", "split"), ("a.jpg", "x", "later")], "line 2: split must be train, val, test"),
        ([("path", "label"), ("z.jpg", "x"), ("y.jpg", "y")], "none of its images exists"),
        ([("path", "label"), ("a.jpg", "x")], "only one class, 'x'"),
    ],
)
def test_a_csv_that_is_wrong_is_refused(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    touch(tmp_path / "a.jpg")
    source = write_csv(tmp_path / "list.csv", *rows)

    with pytest.raises(ValueError, match=message):
        find_images(source, cache_dir=tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_csv_is_read_in_the_encoding_that_it_has(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path / "ä.jpg")
    touch(tmp_path / "b.jpg")
    source = tmp_path / "list.csv"
    source.write_bytes("path,label\nä.jpg,ö\nb.jpg,o".encode(encoding))

    listing = find_images(str(source), cache_dir=tmp_path)

    assert listing.classes == ("o", "ö")
    assert all(path.is_file() for path in listing.paths)


def test_an_empty_folder_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no images in class folders; expected .*CLASS/image.jpg"):
        find_images(str(tmp_path), cache_dir=tmp_path)


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "cat" / "x.jpg")

    with pytest.raises(ValueError, match="only one class, 'cat'"):
        find_images(str(tmp_path), cache_dir=tmp_path)


def test_a_file_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a folder nor a \.csv"):
        find_images(str(touch(tmp_path / "data.xlsx")), cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"data\.zip is an archive: unpack it"):
        find_images(str(touch(tmp_path / "data.zip")), cache_dir=tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder or file: .*/nothing; pass one, or a name: "):
        find_images(str(tmp_path / "nothing"), cache_dir=tmp_path)


def test_an_unknown_name_is_refused_with_the_nearest_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean flowers102"):
        find_images("flowers-102", cache_dir=tmp_path)


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "cat" / "x.jpg")

    def refuse(path: os.PathLike[str]) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(
        ValueError, match=f"cannot read {tmp_path}.*: Permission denied; check its permissions"
    ):
        find_images(str(tmp_path), cache_dir=tmp_path)


class FakeCIFAR:
    """Keeps one array of pixels, as torchvision's CIFAR10 does."""

    classes = ("cat", "dog")
    num_loads = 0

    def __init__(self, _root: str, *, train: bool, download: bool) -> None:
        if not download:
            raise RuntimeError("Dataset not found or corrupted.")
        FakeCIFAR.num_loads += 1
        self._num = 4 if train else 2

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (number, 0, 0)), number % 2


def test_a_set_of_arrays_is_written_once_as_files_with_its_own_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType("torchvision.datasets")
    fake.CIFAR10 = FakeCIFAR  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    monkeypatch.setattr(torchvision_sets, "_check_reachable", lambda *_: None)

    first = find_images("cifar10", cache_dir=tmp_path)
    second = find_images("cifar10", cache_dir=tmp_path)

    assert first.splits == ("train",) * 4 + ("test",) * 2
    assert first.classes == ("cat", "dog")
    assert all(path.is_file() for path in first.paths)
    assert second.paths == first.paths
    assert FakeCIFAR.num_loads == 2  # one for each split, none the second time
