"""The benchmark of unknown classes runs on a few real photos, and says what is missing without them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import unknown_class


def test_missing_sets_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["unknown_class", "--data", str(tmp_path), "--sets", "a", "b"])

    assert unknown_class.main() == 2
    assert "has no a, b" in capsys.readouterr().err


def test_foreign_photos_are_found_by_both_scores_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(os.environ.get("UNFREEZE_DATA", "nowhere"))
    if not all((root / name).is_dir() for name in ("flowers5", "rsscn7_aerial")):
        pytest.skip("no photos: $UNFREEZE_DATA/flowers5 and rsscn7_aerial are needed")
    for name in ("flowers5", "rsscn7_aerial"):
        for folder in sorted(path for path in (root / name).iterdir() if path.is_dir())[:3]:
            (tmp_path / name / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:40]:
                (tmp_path / name / folder.name / photo.name).symlink_to(photo)
    argv = ["unknown_class", "--data", str(tmp_path), "--sets", "flowers5", "rsscn7_aerial"]
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "1", "--image-size", "64"])

    assert unknown_class.main() == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["unknown_class"]
    assert [row["set"] for row in rows] == ["flowers5", "rsscn7_aerial"]
    assert all(row["both"]["foreign"] > 0.8 for row in rows)
