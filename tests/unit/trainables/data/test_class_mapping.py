"""--classes merges, renames and drops classes, and every task made so has the split of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.data.class_mapping import map_classes, use_classes
from trainables.data.datasets import ImageListing, find_images
from trainables.data.manifest import Manifest, make_manifest, read_manifest, read_recorded_splits
from trainables.data.splits import split_listing

SIZES = {"daisy": 20, "rose": 30, "tulip": 12, "Käfer ": 7, "rare": 1}


@pytest.fixture
def listing(tmp_path: Path) -> ImageListing:
    for name, count in SIZES.items():
        for number in range(count):
            path = tmp_path / "data" / name / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return find_images(str(tmp_path / "data"), cache_dir=tmp_path / "cache")


def write(listing: ImageListing, *lines: str, header: str = "class,name") -> Path:
    file = Path(listing.source).parent / "classes.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def make(listing: ImageListing, *lines: str, min_images: int | None = None) -> Manifest:
    """The manifest of a task; every tenth image nearly equals its successor, whatever their classes."""
    mapped = map_classes(listing, write(listing, *lines)) if lines else listing
    digests = [f"digest {number}" for number in range(len(listing.paths))]
    copies = [(number, number + 1) for number in range(9, len(listing.paths) - 1, 10)]
    return make_manifest(mapped, digests, seed=3, near_copies=copies, min_images=min_images)


def counts(listing: ImageListing) -> dict[str, int]:
    return dict(zip(listing.classes, np.bincount(listing.labels).tolist(), strict=True))


def test_classes_are_merged_renamed_and_dropped(listing: ImageListing) -> None:
    file = write(listing, "daisy,Blume", "tulip,Blume", "rose,", "Käfer,Ungeziefer")

    used = use_classes(map_classes(listing, file))

    assert counts(used.listing) == {"Blume": 32, "Ungeziefer": 7, "rare": 1}
    assert used.keep.sum() == 40
    assert used.listing.renamed == ()


def test_a_star_is_every_class_that_is_not_listed(listing: ImageListing) -> None:
    assert counts(use_classes(map_classes(listing, write(listing, "*,rest", "rose,rose"))).listing) == {
        "rest": 40,
        "rose": 30,
    }
    dropping = write(listing, "rose,rose", "*,", "tulip,tulip")
    assert counts(use_classes(map_classes(listing, dropping)).listing) == {"rose": 30, "tulip": 12}


def test_what_is_changed_is_said_and_the_rest_is_not(listing: ImageListing) -> None:
    mapped = map_classes(listing, write(listing, "rose,", "daisy,flower", "tulip,flower"))

    notes = [note.text for note in mapped.notes if note.kind == "renamed"]
    assert len(notes) == 2
    assert notes[0].startswith("'flower' is 'daisy', 'tulip' (32 images), by ")
    assert notes[1].startswith("'rose' (30 images) is not used, though cut into splits with the others, by ")


def test_two_tasks_of_one_folder_have_the_split_of_the_whole(listing: ImageListing) -> None:
    whole = make(listing, min_images=1)
    one = make(listing, "rose,rose", "*,rest")
    others = make(listing, "rose,", min_images=1)
    few = make(listing, "rose,", min_images=12)

    split = dict(zip(whole.digests, whole.splits.tolist(), strict=True))
    for task in (one, others, few):
        assert dict(zip(task.digests, task.splits.tolist(), strict=True)).items() <= split.items()
    assert len(one) == len(whole) == len(others) + 30
    assert few.classes == ("daisy", "tulip")


def test_groups_hold_together_through_images_that_are_not_used(listing: ImageListing) -> None:
    whole = make(listing, min_images=1)
    others = make(listing, "rose,", min_images=1)

    kept = np.isin(whole.digests, others.digests)

    same = whole.groups[kept][:, None] == whole.groups[kept]
    np.testing.assert_array_equal(others.groups[:, None] == others.groups, same)
    assert others.groups[0] == 0
    assert set(np.diff(np.unique(others.groups)).tolist()) == {1}


def test_small_names_are_left_out_after_classes_were_merged(listing: ImageListing) -> None:
    mapped = map_classes(listing, write(listing, "rare,other", "tulip,other"))

    used, splits = split_listing(mapped, seed=0, min_images=13)

    assert counts(used.listing) == {"daisy": 20, "other": 13, "rose": 30}
    assert len(splits) == 63
    assert "names of --classes with fewer than 13 images: 'Käfer '" in used.listing.notes[-1].text


def test_a_name_without_validation_images_is_refused_with_a_way_out(listing: ImageListing) -> None:
    mapped = map_classes(listing, write(listing, "rare,alone", "*,rest"))

    with pytest.raises(ValueError, match=r"no validation image of class 'alone'.*pass --min-images 1"):
        split_listing(mapped, seed=0)
    assert len(split_listing(mapped, seed=0, min_images=1)[1]) == 70


def test_given_splits_are_kept_and_dropped_classes_need_no_training_image(listing: ImageListing) -> None:
    splits = tuple(
        "test" if listing.classes[label] == "rose" else ("train", "val", "test")[number % 3]
        for number, label in enumerate(listing.labels)
    )
    given = replace(listing, splits=splits)

    used, found = split_listing(map_classes(given, write(given, "rose,", "rare,tulip")), seed=0)

    assert found.tolist() == [splits[row] for row in np.flatnonzero(used.keep)]
    with pytest.raises(ValueError, match="no training image of class 'rose'"):
        split_listing(map_classes(given, write(given, "rare,tulip")), seed=0)


def test_the_original_classes_stand_in_data_csv_and_are_read_back(
    listing: ImageListing, tmp_path: Path
) -> None:
    task = make(listing, "rose,rose", "*,rest")

    task.write_csv(tmp_path / "data.csv")
    again = read_manifest(tmp_path / "data.csv", task.classes)

    assert again.originals == task.originals
    assert {original for original, label in zip(task.originals, task.labels, strict=True) if label == 1} == {
        "rose"
    }
    assert read_recorded_splits(tmp_path / "data.csv", task.digests, task.classes) == task.splits.tolist()
    make(listing, min_images=1).write_csv(tmp_path / "data.csv")
    assert (
        (tmp_path / "data.csv")
        .read_text(encoding="utf-8")
        .startswith("id,path,label,split,group,digest,class\n")
    )


def test_another_mapping_has_another_fingerprint(listing: ImageListing) -> None:
    prints = {
        make(listing, *lines, min_images=1).fingerprint
        for lines in [("rose,",), ("rose,Rose",), ("tulip,rose",), ("daisy,rose",), ()]
    }

    assert len(prints) == 5


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbfClass;Name;remark\r\nrose;;gone\r\n\r\n"Ka\xcc\x88fer ";"a; b"\r\n',
        "class\tname\nrose\t\nKäfer\ta; b\n".encode("utf-16"),
        'class,name\n rose , \n"Käfer",a; b\n'.encode("cp1252"),
        "name|class\n|rose\na; b|Käfer\n".encode(),
    ],
)
def test_files_of_spreadsheets_are_read(listing: ImageListing, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes(content)

    mapped = map_classes(listing, tmp_path / "classes.csv")

    assert dict(zip(mapped.classes, mapped.renamed, strict=True)) == {
        **{name: name for name in SIZES},
        "rose": "",
        "Käfer ": "a; b",
    }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["rosé,x"], r"line 2: there is no class 'rosé'; did you mean rose\?"),
        (["zebra,x"], r"line 2: there is no class 'zebra'; classes are 'Käfer ', 'daisy'"),
        (["rose,a", "", "rose,b"], r"line 4: 'rose' stands in line 2 already"),
        (["*,a", "*,b"], r"line 3: '\*' stands in line 2 already"),
        (["*,same"], "leaves only 'same': a classifier needs two names"),
        (["*,"], "leaves no class"),
        (["rose"], "line 2: expected class,name, with an empty name to drop"),
        ([",x"], "line 2: there is no class before the name 'x'"),
    ],
)
def test_a_line_that_cannot_be_followed_is_named(
    listing: ImageListing, lines: list[str], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        map_classes(listing, write(listing, *lines))

    assert "classes.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_header_and_a_missing_file_are_named(listing: ImageListing, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="lacks the column class and name: its first line must be class,name"
    ):
        map_classes(listing, write(listing, "rose,x", header="daisy,y"))
    with pytest.raises(ValueError, match=r"none\.csv: there is no such file"):
        map_classes(listing, tmp_path / "none.csv")
