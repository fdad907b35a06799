"""The comparison of whole commands: its photos, its curves over time and its table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import whole_command
from benchmarks.versus_plain.commands import best_at, best_so_far, seconds_to, write_table
from benchmarks.versus_plain.inputs import draw_images, draw_test_images
from tests.tiny_data import CLASSES, write_images


def make_run(**figures: Any) -> dict[str, Any]:
    return {"seconds": 30.0, "best_val_accuracy": 0.9, "curve": [(20.0, 0.9)], **figures}


def test_a_curve_holds_the_reports_that_were_better_than_all_before_them() -> None:
    curve = best_so_far([(12.0, 0.5), (10.0, 0.6), (14.0, 0.8), (15.0, 0.8), (20.0, 0.7)])

    assert curve == [(10.0, 0.6), (14.0, 0.8)]
    assert [best_at(curve, moment) for moment in (9, 10, 13, 99)] == [None, 0.6, 0.6, 0.8]
    assert [seconds_to(curve, accuracy) for accuracy in (0.1, 0.7, 0.9)] == [10.0, 14.0, None]


def test_the_test_photos_are_in_no_command(tmp_path: Path) -> None:
    data = str(write_images(tmp_path / "images"))
    images = draw_images(data, num_images=24, seed=0)

    test = draw_test_images(data, images, num_images=12, seed=0)

    given = {path for rows in images.values() for path, _ in rows}
    assert len({path for path, _ in test} - given) == 12
    assert sorted({label for _, label in test}) == [0, 1, 2]
    with pytest.raises(ValueError, match=f"class {CLASSES[0]} has 4 more images"):
        draw_test_images(data, images, num_images=15, seed=0)


def test_our_command_gets_the_same_splits_as_the_rivals(tmp_path: Path) -> None:
    table = write_table(tmp_path / "ours", {"train": [["a.png", 0]], "val": [["b.png", 1]]})

    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"path": "a.png", "label": "class 0", "split": "train"},
        {"path": "b.png", "label": "class 1", "split": "val"},
    ]


def test_the_table_says_in_how_many_repeats_a_figure_was_reached() -> None:
    repeats = [
        {"expert": make_run(), "ours": make_run(as_expert_seconds=21.0, page_seconds=28.0)},
        {"expert": make_run(seconds=34.0), "ours": make_run(as_expert_seconds=None, page_seconds=29.0)},
    ]
    console = Console(width=160, record=True, file=io.StringIO())

    console.print(whole_command.make_table(24, repeats))

    text = console.export_text()
    assert "32.0 (30.0 to 34.0)" in text
    assert "21.0, 1 of 2 runs" in text
    (page,) = (line for line in text.splitlines() if line.startswith("report page"))
    assert " - " in page
    assert whole_command.summarise(repeats)["ours"]["seconds"]["median"] == 30.0


def test_too_few_photos_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "images", images_per_class=3)

    assert whole_command.main(["--data", str(data), "--images", "600"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks whole_command: class blue has 3 images")
