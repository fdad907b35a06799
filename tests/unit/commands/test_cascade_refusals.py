"""finalize.py A --then B refuses what makes no cascade in one line, before anything is opened or trained."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import finalize

Row = tuple[str, str, str, str]
"""Content, split, class and original class of an image."""

NAMES = ("ant", "bee", "cat")
IMAGES = [(f"digest {n}", ("train", "val", "test", "train")[n % 4], NAMES[n % 3]) for n in range(24)]
FIRST = [(digest, split, "bee" if name == "bee" else "rest", name) for digest, split, name in IMAGES]
SECOND = [(digest, split, name, name) for digest, split, name in IMAGES if name != "bee"]
MOVED = [(d, "val" if number == 0 else s, n, o) for number, (d, s, n, o) in enumerate(SECOND)]


def write_study(folder: Path, rows: Sequence[Row]) -> None:
    folder.mkdir(parents=True)
    classes = sorted({name for _, _, name, _ in rows})
    (folder / "study.json").write_text(json.dumps({"data": {"classes": classes}}))
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "split", "group", "digest", "class", "original"])
        for number, (content, split, name, before) in enumerate(rows):
            path = f"/photos/{before}/{content}.jpg"
            writer.writerow([number, path, classes.index(name), split, number, content, name, before])


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (FIRST, SECOND[1:], "the studies are of other images: 1 image of a not in b (ant/digest 0.jpg)"),
        (FIRST, MOVED, "the studies have cut the same images otherwise: 1 image, such as ant/digest 0.jpg"),
        ([(d, s, n, n) for d, s, n in IMAGES], SECOND, "study a has 3 classes: the first of a cascade has"),
        (FIRST, FIRST, "b has the same images of both classes of a"),
    ],
    ids=["other images", "another cut", "three classes", "the same task"],
)
def test_studies_that_make_no_cascade_are_refused_in_one_line(
    first: Sequence[Row],
    second: Sequence[Row],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_study(tmp_path / "a", first)
    write_study(tmp_path / "b", second)

    code = finalize.main(["a", "--then", "b", "--runs-dir", str(tmp_path), "--seeds", "3"])

    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"finalize.py: {said}")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["data.csv", "study.json"]


def test_a_second_study_that_is_not_there_is_named_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "a", FIRST)
    write_study(tmp_path / "others", SECOND)

    assert finalize.main(["a", "--then", "other", "--runs-dir", str(tmp_path)]) == 2

    assert "no study 'other'" in (said := capsys.readouterr().err)
    assert "others" in said


def test_a_study_is_no_cascade_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "a", FIRST)

    assert finalize.main(["a", "--then", "a", "--runs-dir", str(tmp_path)]) == 2

    assert "has the same images of both classes" in capsys.readouterr().err
