"""The cascade benchmark: gains are taken seed by seed, and both models must have read the same images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cascade import list_test_images, print_rows, summarize


def row(seed: int, single: float, cascade: float) -> dict[str, Any]:
    found = {
        name: {"accuracy": accuracy, "loss": 1 - accuracy, "seconds": 10.0}
        for name, accuracy in (("single", single), ("cascade", cascade))
    }
    return {"seed": seed, "images": 128, **found}


def test_gains_are_taken_seed_by_seed() -> None:
    found = summarize([row(0, 0.9, 0.8), row(1, 0.7, 0.7)])

    assert found["accuracy"]["cascade_less_single"] == pytest.approx(-0.05)
    assert found["accuracy"]["standard_error"] == pytest.approx(0.05)
    assert found["loss"]["cascade_less_single"] == pytest.approx(0.05)


def test_one_seed_has_no_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(0, 0.9, 0.8)]

    assert summarize(rows)["loss"]["standard_error"] is None
    print_rows(rows)
    assert "0.8000" in capsys.readouterr().out


def test_only_images_of_the_test_split_are_listed(tmp_path: Path) -> None:
    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "split"), ("b", "test"), ("c", "val"), ("a", "test")])

    assert list_test_images(tmp_path) == ["a", "b"]
