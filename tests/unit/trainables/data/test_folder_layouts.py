"""How folders are read: which are classes, which are splits, and what is left out by name."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from trainables.data.datasets import ImageListing, find_images
from trainables.data.datasets._layout import split_of


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def list_images(root: Path, **options: object) -> ImageListing:
    return find_images(str(root), cache_dir=root.parent / "cache", **options)  # type: ignore[arg-type]


def notes(listing: ImageListing) -> str:
    return "\n".join(f"{note.kind}: {note.text}" for note in listing.notes)


def splits(listing: ImageListing) -> Counter[str | None]:
    return Counter(listing.splits)


@pytest.mark.parametrize("stray", ["runs/exp1/a.jpg", "annotations/a.png", "extra/cat/b.jpg"])
def test_a_stray_folder_beside_split_folders_is_named_and_left_out(tmp_path: Path, stray: str) -> None:
    root = touch(
        tmp_path / "d", *(f"{s}/{c}/{s}.jpg" for s in ("train", "val", "test") for c in ("cat", "dog"))
    )
    touch(root, stray)

    listing = list_images(root)

    assert listing.classes == ("cat", "dog")
    assert splits(listing) == {"train": 2, "val": 2, "test": 2}
    assert f"left out: {stray.split('/')[0]}, which is no split, with 1 image" in notes(listing)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("seg_train", "seg_test"), {"train": 2, "test": 2}),
        (("train", "dev"), {"train": 2, "val": 2}),
        (("Training", "Testing"), {"train": 2, "test": 2}),
        (("train2017", "val2017"), {"train": 2, "val": 2}),
        (("train_images", "valid_images", "test_images"), {"train": 2, "val": 2, "test": 2}),
        (("trainset", "testset"), {"train": 2, "test": 2}),
        (("TrainData", "ValData"), {"train": 2, "val": 2}),
        (("flowers-train", "flowers-holdout"), {"train": 2, "test": 2}),
    ],
)
def test_split_folders_by_their_usual_names_are_understood(
    tmp_path: Path, names: tuple[str, ...], expected: dict[str, int]
) -> None:
    root = touch(tmp_path / "d", *(f"{name}/{c}/x.jpg" for name in names for c in ("cat", "dog")))

    listing = list_images(root)

    assert listing.classes == ("cat", "dog")
    assert splits(listing) == expected


def test_split_folders_that_hold_themselves_once_more_are_understood(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "d",
        *(f"seg_{s}/seg_{s}/{c}/x.jpg" for s in ("train", "test") for c in ("cat", "dog")),
        "seg_pred/seg_pred/1.jpg",
    )

    listing = list_images(root)

    assert splits(listing) == {"train": 2, "test": 2}
    assert "seg_pred" in notes(listing)


def test_splits_below_the_classes_are_understood(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", *(f"{c}/{s}/x.jpg" for s in ("train", "test") for c in ("cat", "dog")))

    listing = list_images(root)

    assert listing.classes == ("cat", "dog")
    assert splits(listing) == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    "names", [("fold_1", "fold_2"), ("first", "second", "third"), ("train", "more"), ("val", "test")]
)
def test_folders_that_all_hold_the_same_classes_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = touch(tmp_path / "d", *(f"{name}/{c}/x.jpg" for name in names for c in ("cat", "dog")))

    with pytest.raises(ValueError, match=r"these look like splits: .*'cat', 'dog'"):
        list_images(root)


def test_classes_that_each_hold_one_folder_of_the_same_name_are_classes(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "crack/Imgs/1.jpg", "free/Imgs/1.jpg")

    assert list_images(root).classes == ("crack", "free")


def test_vehicles_called_train_and_toys_called_train_set_are_classes(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "bus/1.jpg", "train/1.jpg", "train/2.jpg", "dev board/1.jpg")

    listing = list_images(root)

    assert listing.classes == ("bus", "dev board", "train")
    assert splits(listing) == {None: 4}


def test_a_lone_folder_called_train_with_classes_below_is_pointed_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "train/cat/1.jpg", "train/dog/1.jpg", "annotations/1.jpg")

    assert "if it is a split of the classes 'cat', 'dog', pass that folder" in notes(list_images(root))


def test_a_class_without_a_readable_image_is_named_with_its_suffixes(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "cat/1.jpg", "dog/1.jpg", "dog/1.raw", *(f"owl/{n}.xyz" for n in range(50)))
    (root / "empty").mkdir()

    found = notes(list_images(root))

    assert "owl, without an image that can be read: 50 .xyz" in found
    assert "empty, which is empty" in found
    assert "files in class folders that are not read: 1 .raw" in found


def test_side_folders_of_other_programs_are_left_out_without_a_word(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "d",
        *("cat/1.jpg", "dog/1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB.jpg", "__MACOSX/cat/._1.jpg"),
        *("cat/.thumbnails/1.jpg", "$RECYCLE.BIN/1.jpg", "dog/Thumbs.db", "@Recycle/2.jpg"),
    )

    listing = list_images(root)

    assert [path.name for path in listing.paths] == ["1.jpg", "1.jpg"]
    assert listing.notes == ()


def test_folders_that_this_program_wrote_are_never_listed(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    touch(
        root,
        "results/mlflow.db",
        "results/study/image.png",
        "old/study.json",
        "old/x.png",
        "store/images/index.db",
    )
    touch(root, "mine/1.png")

    listing = list_images(root, own=(root / "mine",))

    assert listing.classes == ("cat", "dog")
    assert len(listing.paths) == 4
    assert "written by this program" in notes(listing)


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        (
            ("photos/cat/1.jpg", "photos/dog/1.jpg"),
            ".",
            r"class folders seem to be 'cat', 'dog': pass .*/d/photos",
        ),
        (("a/b/cat/1.jpg", "a/b/dog/1.jpg"), ".", r"pass .*/d/a/b"),
        (
            ("cat/1.jpg", "dog/1.jpg"),
            "cat",
            r"no images in class folders but 1 directly.*pass the folder above",
        ),
        (("photos.zip",), ".", r"archives \(1 \.zip\): unpack them first"),
        (("1.jpg", "labels.csv"), ".", r"if a table names their classes, pass that file"),
        (("train/1.jpg", "val/2.jpg"), ".", r"train holds its 1 image directly; expected train/CLASS/image"),
        (("cat/1.docx",), ".", r"found only 1 \.docx"),
        (
            ("cat/1.jpg", "dog/1.raw"),
            ".",
            r"only one class, 'cat'.*left out: dog, without an image .*1 \.raw",
        ),
    ],
)
def test_the_wrong_level_is_refused_with_the_right_one(
    tmp_path: Path, files: tuple[str, ...], data: str, message: str
) -> None:
    root = touch(tmp_path / "d", *files)

    with pytest.raises(ValueError, match=message):
        list_images(root if data == "." else root / data)


def test_one_split_folder_of_several_is_pointed_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", *(f"{s}/{c}/x.jpg" for s in ("train", "val") for c in ("cat", "dog")))

    assert f"'val' beside it are not used; pass {root}" in notes(list_images(root / "train"))


def test_composed_and_decomposed_names_are_one_class_and_latin_1_names_are_read(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    root = touch(
        tmp_path / "d",
        f"train/{composed}/1.jpg",
        f"val/{decomposed}/2.jpg",
        "train/tea/1.jpg",
        "val/tea/2.jpg",
    )
    latin = os.fsencode(root) + b"/train/Caf\xe9/"
    os.mkdir(latin)  # noqa: PTH102 (bytes)
    with open(latin + b"na\xefve.jpg", "wb"):  # noqa: PTH123 (bytes)
        pass

    listing = list_images(root)

    assert listing.classes == (composed, "tea")
    assert np_counts(listing) == [3, 2]
    assert all(path.exists() for path in listing.paths)


def np_counts(listing: ImageListing) -> list[int]:
    return [int((listing.labels == label).sum()) for label in range(len(listing.classes))]


def test_class_names_that_look_alike_or_mean_none_are_pointed_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", *(f"{name}/1.jpg" for name in ("Cat", "cat", "1", "01", "nan", "dog")))

    found = notes(list_images(root))

    assert "'Cat', 'cat' are different classes" in found
    assert "'01', '1' are different classes" in found
    assert "'nan' is a class here: does it stand for a missing label?" in found


def test_pipes_dangling_links_and_closed_folders_are_named_and_never_opened(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "cat/1.jpg", "dog/1.jpg")
    os.mkfifo(root / "cat" / "x.jpg")
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")

    listing = list_images(root)

    assert len(listing.paths) == 2
    assert "cat/x.jpg (a pipe)" in notes(listing)
    assert "dog/gone.jpg (a link to nothing)" in notes(listing)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "cat/1.jpg", "dog/1.jpg", "owl/1.jpg")
    (root / "owl").chmod(0)

    try:
        assert "owl (a folder that cannot be read" in notes(list_images(root))
    finally:
        (root / "owl").chmod(0o755)


@pytest.mark.parametrize("name", ["my photos", "50%", "a?b#c", "x[1]", "ü & ö", "it's", 'quo"te'])
def test_names_with_odd_characters_are_listed(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path / name, f"{name}/{name}.jpg", "dog/1.jpg")

    assert name in list_images(root).classes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seg_train", ("train", "seg")),
        ("validation-set", ("val", "")),
        ("test", ("test", "")),
        ("train_test", None),
        ("contest", None),
        ("terrain", None),
        ("学習", None),
    ],
)
def test_a_split_is_read_off_whole_words_only(name: str, expected: tuple[str, str] | None) -> None:
    assert split_of(name) == expected


def test_groups_by_folder_by_pattern_and_wrong_ones(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "cat/p1/a.jpg", "cat/p2/b.jpg", "dog/p1/c_7.jpg", "dog/d_7.jpg")

    assert list_images(root, group_by="folder").groups == ("p1", "p2", "", "p1")
    assert list_images(root, group_by=r"_(\d)").groups == ("", "", "7", "7")
    with pytest.raises(ValueError, match=r"fits none of the images"):
        list_images(root, group_by="tile([0-9]+)")
    with pytest.raises(ValueError, match=r"nor a regular expression"):
        list_images(root, group_by="(")
    with pytest.raises(ValueError, match=r"expected CLASS/GROUP/image"):
        list_images(touch(tmp_path / "e", "cat/a.jpg", "dog/b.jpg"), group_by="folder")
