"""A study that begins with what earlier ones found, on backbones that frozen features do not rule out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def search(folder: Path, name: str, *flags: str) -> str:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"))
    words = ("--space", "demo", "--data", str(folder / name), "--study", name, "--image-size", "32")
    limits = ("--max-epochs", "1", "--scheduler", "none", "--concurrent", "1")
    done = subprocess.run(
        [sys.executable, "tune.py", *words, *places, *limits, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "runs" / name / "study.json").read_text())
    return facts


def test_a_study_takes_over_and_keeps_what_it_began_with(tmp_path: Path) -> None:
    write_images(tmp_path / "old")
    write_images(tmp_path / "new", images_per_class=14, side=36)
    search(tmp_path, "old", "--trials", "4")
    flags = ("--backbones", "auto", "lite0", "lite1", "--warm-start", "auto")

    first = search(tmp_path, "new", *flags, "--trials", "4")
    begun = facts_of(tmp_path, "new")
    again = search(tmp_path, "new", *flags, "--trials", "5")

    assert "ridge probe" in first
    assert "4 trials on 1 set of images, of old" in first
    assert {row["name"] for row in begun["backbone_choice"]} == {"lite0", "lite1"}
    assert begun["flags"]["backbones"] == [row["name"] for row in begun["backbone_choice"] if row["kept"]]
    assert begun["warm_start"]
    assert all(start["name"].endswith("of old") for start in begun["warm_start"])
    continued = facts_of(tmp_path, "new")
    assert "ridge probe" not in again
    assert "warm start" not in again
    assert (continued["backbone_choice"], continued["warm_start"]) == (
        begun["backbone_choice"],
        begun["warm_start"],
    )
    words = (sys.executable, "-m", "analysis", "leaderboard", str(tmp_path / "runs" / "new"), "--json")
    rows = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout)
    recipes = {row["trial"]: row["recipe"] for row in rows}
    assert [recipes[number] for number in range(2, 2 + len(begun["warm_start"]))] == [
        start["name"] for start in begun["warm_start"]
    ]
    assert len(rows) == 5
