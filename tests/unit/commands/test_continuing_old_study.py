"""A study that another version made is not continued: its trials would not be comparable with new ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tune

MADE_THEN = Path(__file__).parents[2] / "data" / "study_086efa2"


@pytest.mark.slow  # it reads the images of digits
def test_continuing_it_is_refused_in_one_line_that_names_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", never)
    study = shutil.copytree(MADE_THEN, tmp_path / "old086")
    before = (study / "study.db").read_bytes(), (study / "study.json").read_bytes()
    places = ["--runs-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache"), "--study", "old086"]

    code = tune.main(["--space", "demo", "--data", "digits", "--trials", "6", "--max-epochs", "2", *places])

    error = capsys.readouterr().err
    assert code == 2
    assert error.strip().count("\n") == 0
    assert "086efa2" in error
    assert ((study / "study.db").read_bytes(), (study / "study.json").read_bytes()) == before
