"""The command preview draws a policy's contact sheet, or says which flag is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.__main__ import COMMANDS, main
from trainables.preview import LINE, MARGIN, describe_target

SIZE = 24


def make_folder(root: Path, *, damaged: bool = False) -> Path:
    """Three classes of one colour each, two images a class."""
    for name, colour in (("blue", (0, 0, 250)), ("green", (0, 250, 0)), ("red", (250, 0, 0))):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 30 + number), colour).save(folder / f"{number}.png")
            if damaged:
                (folder / f"{number}.png").write_bytes(b"no picture")
    return root


def preview(tmp_path: Path, *flags: str, data: Path | None = None) -> tuple[int, Path]:
    out = tmp_path / "sheet.png"
    folder = data or make_folder(tmp_path / "photos")
    arguments = ["--data", str(folder), "--out", str(out), "--image-size", str(SIZE), *flags]
    return main(["preview", *arguments]), out


def cell(sheet: Path, row: int, column: int) -> np.ndarray[Any, Any]:
    top, left = LINE + 2 * MARGIN + row * (SIZE + LINE + MARGIN), MARGIN + column * (SIZE + MARGIN)
    return np.array(Image.open(sheet))[top : top + SIZE, left : left + SIZE]


def test_rows_are_images_of_all_classes_and_columns_their_views(tmp_path: Path) -> None:
    code, sheet = preview(tmp_path, "--policy", "light", "--images", "3", "--epochs", "2")

    assert code == 0
    for row, colour in enumerate([(0, 0, 250), (0, 250, 0), (250, 0, 0)]):
        for column in range(3):
            assert (cell(sheet, row, column) == colour).all()


def test_the_first_column_is_the_image_as_it_is(tmp_path: Path) -> None:
    _, sheet = preview(tmp_path, "--policy", "random_erasing", "--images", "1", "--epochs", "6")

    erased = [bool((cell(sheet, 0, column) == 128).any()) for column in range(7)]
    assert not erased[0] and any(erased[1:])


def test_a_padded_view_shows_all_of_a_long_image_of_twelve_bits(tmp_path: Path) -> None:
    for name in "ab":
        folder = tmp_path / "long" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.full((10, 40), 4095, np.uint16)).save(folder / "0.png")

    code, sheet = preview(
        tmp_path, "--policy", "none", "--fit", "pad", "--images", "1", data=tmp_path / "long"
    )

    shown = cell(sheet, 0, 1)
    assert code == 0
    assert (shown[12] > 240).all()
    assert (shown[:6] == (124, 116, 104)).all() and (shown[-6:] == (124, 116, 104)).all()


def test_a_mixed_view_shows_two_images(tmp_path: Path) -> None:
    flags = ("--policy", "none", "--mix", "cutmix", "--cutmix-min", "0.5", "--cutmix-max", "0.5")

    _, sheet = preview(tmp_path, *flags, "--images", "6", "--epochs", "1")

    colours = [len(np.unique(cell(sheet, row, 1).reshape(-1, 3), axis=0)) for row in range(6)]
    assert max(colours) == 2


def test_more_images_than_there_are_means_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = preview(tmp_path, "--policy", "flip", "--images", "50")

    assert code == 0
    assert "6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--policy", "lihgt"), "did you mean light"),
        (("--policy", "light", "--mix-share", "2"), "mix_share must be in [0, 1]"),
        (("--policy", "light", "--cutmix-min", "0.9", "--cutmix-max", "0.1"), "cutmix_min"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    code, sheet = preview(tmp_path, *flags)

    error = capsys.readouterr().err
    assert code == 2 and not sheet.exists()
    assert message in error and error.count("\n") == 1


def test_images_that_cannot_be_read_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "broken", damaged=True)

    code, _ = preview(tmp_path, "--policy", "light", data=folder)

    assert code == 2
    assert "none of 6 images can be read" in capsys.readouterr().err


def test_a_target_is_named_by_its_class_or_by_the_share_of_each() -> None:
    classes = ("daisy", "rose", "tulip")

    assert describe_target(np.int64(1), classes) == "rose"
    assert describe_target(np.array([0.3, 0.0, 0.7]), classes) == "70% tulip, 30% daisy"
    assert describe_target(np.array([0.0, 1.0, 0.0]), classes) == "rose"


@pytest.mark.parametrize("given", [[], ["previe"]])
def test_an_unknown_command_is_refused_with_the_known_ones(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(given)

    assert code == 2
    assert "preview" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
