"""The command `python -m trainables check`: planted faults are found, nothing is changed, decisions apply."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from tests.tiny_data import write_images
from trainables.__main__ import main
from trainables.check import choose_side
from trainables.model.backbones import find_backbone


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """36 tinted pictures; among them a copy under another class, a blank, a blurred and a broken one."""
    folder = write_images(tmp_path / "data")
    shutil.copy(folder / "red" / "00.png", folder / "green" / "copy.png")
    Image.new("RGB", (40, 40), "gray").save(folder / "blue" / "blank.png")
    with Image.open(folder / "blue" / "01.png") as picture:
        blurred = ImageOps.autocontrast(picture.filter(ImageFilter.GaussianBlur(6)))
        blurred.save(folder / "blue" / "blurred.png")
    (folder / "red" / "broken.png").write_bytes(b"no image")
    for number in range(3):
        (folder / "few").mkdir(exist_ok=True)
        pixels = np.random.default_rng(100 + number).integers(0, 256, (40, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "few" / f"{number}.png")
    return folder


def check(data: Path, folder: Path, *flags: str) -> int:
    files = {"--out": "check.html", "--json": "found.json", "--review": "labels.review.csv"}
    places = [
        word for flag, name in files.items() if flag not in flags for word in (flag, str(folder / name))
    ]
    return main(["check", str(data), *places, "--cache-dir", str(folder / "cache"), *flags])


def read_json(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def read_review(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.review.csv").open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def decide(folder: Path, **actions: str) -> None:
    """Write an action beside the images of these names, without their suffix."""
    rows = read_review(folder)
    with (folder / "labels.review.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"action": actions.get(Path(row["path"]).stem, "")} for row in rows)


def test_each_planted_fault_is_found_and_no_file_is_touched(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*.png")}

    code = check(data, tmp_path, "--no-features")

    found, said = read_json(tmp_path), capsys.readouterr().out
    assert code == 0
    assert [one["path"] for one in found["unreadable"]] == ["red/broken.png"]
    assert [{image["path"] for image in one["images"]} for one in found["copies"]] == [
        {"red/00.png", "green/copy.png"}
    ]
    assert {(one["path"], one["kind"]) for one in found["odd_pictures"]} == {
        ("blue/blank.png", "blank"),
        ("blue/blurred.png", "blurred"),
    }
    assert found["tiny_classes"] == ["few"]
    assert "1 picture stands under two classes" in said
    assert "--metric val_macro_f1" in said
    assert {row["path"] for row in read_review(tmp_path)} == {
        "red/00.png",
        "green/copy.png",
        "blue/blank.png",
        "blue/blurred.png",
    }
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before


def test_files_that_are_used_but_odd_are_counted_and_named(data: Path, tmp_path: Path) -> None:
    clear = np.random.default_rng(7).integers(0, 256, (40, 40, 4)).astype(np.uint8)
    Image.fromarray(clear).save(data / "red" / "clear.png")

    check(data, tmp_path, "--no-features")

    found = read_json(tmp_path)
    assert found["remarks"] == {"transparent": ["red/clear.png"]}
    assert any("transparent in places" in note["text"] for note in found["notes"])
    assert "transparent in places" in (tmp_path / "check.html").read_text()


def test_decisions_apply_and_stay_when_the_data_are_checked_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(data, tmp_path, "--no-features")
    decide(tmp_path, copy="drop", blank="keep")
    review = tmp_path / "labels.review.csv"
    capsys.readouterr()

    refused = check(data, tmp_path, "--no-features")
    error = capsys.readouterr().err
    code = check(data, tmp_path, "--no-features", "--corrections", str(review))

    found = read_json(tmp_path)
    assert (refused, code) == (2, 0)
    assert "2 decisions, which would be written over" in error
    assert found["copies"] == []
    assert [one["path"] for one in found["odd_pictures"]] == ["blue/blurred.png"]
    assert "0 relabelled, 1 dropped, 1 kept" in " ".join(note["text"] for note in found["notes"])
    assert {row["path"]: row["action"] for row in read_review(tmp_path)} == {
        "green/copy.png": "drop",
        "blue/blank.png": "keep",
        "blue/blurred.png": "",
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--backbone", "lite9"), "did you mean lite"),
        (("--out", "nowhere/at/all.html"), "does not exist"),
        (("--corrections", "nowhere.csv"), "cannot read the corrections"),
        (("--cache-gb", "none"), "positive number"),
    ],
)
def test_wrong_flags_end_with_one_line_and_exit_code_2(
    flags: tuple[str, ...], expected: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = check(data, tmp_path, *flags)
    except SystemExit as stop:
        code = int(stop.code or 0)

    assert code == 2
    assert expected in capsys.readouterr().err


def test_data_that_are_not_there_or_hold_no_image_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.png").write_bytes(b"no image")

    codes = check(tmp_path / "missing", tmp_path), check(tmp_path / "data", tmp_path)

    errors = capsys.readouterr().err.splitlines()
    assert codes == (2, 2)
    assert len(errors) == 2
    assert "none of the 2 images" in errors[1]


def test_another_file_is_not_written_over_by_the_review(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("path,label\na.png,cat\n")

    code = check(data, tmp_path, "--no-features", "--review", str(tmp_path / "mine.csv"))

    assert code == 2
    assert "lacks the column" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text().startswith("path,label")


@pytest.mark.parametrize(("num", "side"), [(1_000, 224), (100_000, 128), (1_000_000, 96)])
def test_many_images_are_looked_at_smaller_so_that_they_fit_the_cache(num: int, side: int) -> None:
    assert choose_side(num, budget_gb=20.0, backbone=find_backbone("lite0")) == side


def test_an_image_that_is_kept_is_not_asked_about_again_beside_its_undecided_copy(
    data: Path, tmp_path: Path
) -> None:
    check(data, tmp_path, "--no-features")
    decide(tmp_path, copy="keep")

    check(data, tmp_path, "--no-features", "--corrections", str(tmp_path / "labels.review.csv"))

    paths = [row["path"] for row in read_review(tmp_path)]
    assert sorted(paths) == ["blue/blank.png", "blue/blurred.png", "green/copy.png", "red/00.png"]


def test_a_changed_label_is_found_by_the_packaged_network(data: Path, tmp_path: Path) -> None:
    """With the weights that ship with the installation, and no network."""
    shutil.rmtree(data / "few")
    shutil.move(data / "red" / "05.png", data / "green" / "wrong.png")

    code = check(data, tmp_path)

    found = read_json(tmp_path)
    suspects = {one["path"]: one["suggested"] for one in found["label_suspects"]}
    assert code == 0
    assert suspects["green/wrong.png"] == "red"
    assert "features" in found["seconds"]
    assert not found["not_checked"]
    assert "Labels to look at" in (tmp_path / "check.html").read_text()
