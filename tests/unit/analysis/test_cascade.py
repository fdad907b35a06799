"""A cascade puts two studies together that cut the same images alike, and refuses all others."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis.answer.cascade import ABSENT, make_cascade
from analysis.predictions import Array
from contract.answer import normalise

Row = tuple[str, str, str, str]
"""Content, split, class and original class of an image."""

IMAGES = [
    (
        f"digest {number}",
        ("train", "val", "test", "train")[number % 4],
        ("ant", "bee", "cat", "dog")[number % 3],
    )
    for number in range(24)
]
FIRST = [(digest, split, "bee" if name == "bee" else "rest", name) for digest, split, name in IMAGES]
SECOND = [(digest, split, name, name) for digest, split, name in IMAGES if name != "bee"]


def write_study(folder: Path, rows: Sequence[Row], *, original: bool = True, digest: bool = True) -> Path:
    folder.mkdir()
    classes = sorted({name for _, _, name, _ in rows})
    (folder / "study.json").write_text(json.dumps({"data": {"classes": classes}}))
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ["id", "path", "label", "split", "group", "digest", "class", "original"]
        width = 4 if not digest else 8 if original else 7
        writer.writerow(header[:width])
        for number, (content, split, name, before) in enumerate(rows):
            path = f"/photos/{before}/{content}.jpg"
            row = [number, path, classes.index(name), split, number, content, name, before]
            writer.writerow(row[:width])
    return folder


def draw(images: int, classes: int, seed: int) -> Array:
    return normalise(np.random.default_rng(seed).normal(size=(images, classes)))


def test_probabilities_are_merged_by_the_rule_of_conditional_probability(tmp_path: Path) -> None:
    cascade = make_cascade(write_study(tmp_path / "a", FIRST), write_study(tmp_path / "b", SECOND))
    first, second = draw(5, 2, 0), draw(5, 2, 1)

    merged = np.exp(cascade.merge(first, second))

    assert cascade.classes == ("ant", "bee", "cat")
    assert cascade.order == (1, 0, 2)
    np.testing.assert_allclose(merged.sum(axis=1), 1)
    np.testing.assert_allclose(merged[:, 1], np.exp(first[:, 0]))
    np.testing.assert_allclose(merged[:, 2], np.exp(first[:, 1]) * np.exp(second[:, 1]))


def test_images_of_a_split_have_their_numbers_in_both_studies(tmp_path: Path) -> None:
    cascade = make_cascade(write_study(tmp_path / "a", FIRST), write_study(tmp_path / "b", SECOND[::-1]))

    images = cascade.images("val")

    for row, second, label in zip(images.ids, images.second_ids, images.labels, strict=True):
        assert cascade.classes[label] == FIRST[row][3]
        assert (second == ABSENT) == (FIRST[row][3] == "bee")
        assert second == ABSENT or SECOND[::-1][second][0] == FIRST[row][0]
    assert len(images.ids) == 6


def test_the_rest_may_be_the_first_name_and_classes_of_the_second_may_be_merged(tmp_path: Path) -> None:
    first = [(d, s, "wasp" if n == "bee" else "other", o) for d, s, n, o in FIRST]
    second = [(d, s, {"ant": "x", "cat": "y"}[n], o) for d, s, n, o in SECOND]

    cascade = make_cascade(write_study(tmp_path / "a", first), write_study(tmp_path / "b", second))

    assert (cascade.one, cascade.rest) == (1, 0)
    assert cascade.classes == ("wasp", "x", "y")


def test_equal_files_under_two_classes_are_told_by_their_class(tmp_path: Path) -> None:
    copies = [("same", "train", "ant"), ("same", "train", "cat")]
    first = [*FIRST, *[(d, s, "rest", n) for d, s, n in copies]]
    second = [*[(d, s, n, n) for d, s, n in reversed(copies)], *SECOND]

    cascade = make_cascade(write_study(tmp_path / "a", first), write_study(tmp_path / "b", second))

    assert cascade.pairs[-2:].tolist() == [1, 0]


def test_a_second_study_of_a_folder_without_the_class_needs_no_classes_file(tmp_path: Path) -> None:
    second = write_study(tmp_path / "b", SECOND, original=False)

    assert make_cascade(write_study(tmp_path / "a", FIRST), second).classes == ("ant", "bee", "cat")


MOVED = [(d, "val" if number == 0 else s, n, o) for number, (d, s, n, o) in enumerate(SECOND)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([*SECOND, ("x", "val", "emu", "emu")], SECOND, "a has 3 classes: the first of a cascade has two"),
        (FIRST, SECOND[1:], r"other images: 1 image of a not in b \(ant/digest 0.jpg\)"),
        (FIRST, [*SECOND, ("new", "val", "cat", "cat")], "other images: 1 image of b not in a"),
        (
            FIRST,
            MOVED,
            "cut the same images otherwise: 1 image, such as ant/digest 0.jpg, train in a and val",
        ),
        (FIRST, FIRST, "has the same images of both classes of a: the second study of a cascade has all"),
        (FIRST, [("x", "val", n, n) for n in ("ant", "cat")], "b has no image of a"),
        (FIRST, [(d, s, "bee" if n == "ant" else n, o) for d, s, n, o in SECOND], "'bee' is a class of both"),
    ],
)
def test_studies_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, first: Sequence[Row], second: Sequence[Row], expected: str
) -> None:
    folders = write_study(tmp_path / "a", first), write_study(tmp_path / "b", second)

    with pytest.raises(ValueError, match=expected) as caught:
        make_cascade(*folders)

    assert "\n" not in str(caught.value)


def test_studies_of_earlier_versions_and_other_folders_are_refused(tmp_path: Path) -> None:
    new, old = write_study(tmp_path / "a", FIRST), write_study(tmp_path / "b", SECOND, digest=False)

    with pytest.raises(ValueError, match="study b was made by a version that kept no digests"):
        make_cascade(new, old)
    with pytest.raises(ValueError, match="none is no study"):
        make_cascade(new, tmp_path / "none")
