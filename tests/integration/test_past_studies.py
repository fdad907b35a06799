"""A study that begins with what earlier ones found, on backbones that frozen features do not rule out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.study_factory import FakeTrial, make_study
from tests.tiny_data import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
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
    write_images(tmp_path / "new")
    config = {"unfreeze_depth": 0, "dropout": 0.1}
    trials = [
        FakeTrial(curve=[value], config=config | {"learning_rate": rate})
        for value, rate in ((0.6, 5e-4), (0.9, 2e-3), (0.7, 8e-3))
    ]
    make_study(tmp_path / "runs" / "old", trials, space="demo", directions=["maximize"])
    flags = ("--backbones", "auto", "lite0", "lite1", "--warm-start", "auto", "--trials", "3")

    first = search(tmp_path, "new", *flags)
    begun = facts_of(tmp_path, "new")
    again = search(tmp_path, "new", *flags)

    assert "ridge probe" in first
    assert "3 trials on 1 set of images, of old" in first
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
    assert recipes == {0: "linear head", 1: "top stages", 2: begun["warm_start"][0]["name"]}
