"""Faults planted into a few real photos are written as the truth says, and the checks find most of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.planted.measure import join_copies, run_checks, score
from benchmarks.planted.plant import find_photos, plant_faults


@pytest.fixture
def photos() -> Path:
    root = Path(os.environ.get("UNFREEZE_DATA", "nowhere"))
    if not (root / "flowers5").is_dir():
        pytest.skip("no photos: $UNFREEZE_DATA/flowers5 is missing")
    return root


def make_colours(folder: Path) -> Path:
    """Twenty pictures each of two classes."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.effect_noise((40, 30), 20 + number).convert("RGB").save(folder / name / f"{number}.png")
    return folder


def test_the_truth_names_what_was_planted(tmp_path: Path) -> None:
    source, target = make_colours(tmp_path / "source"), tmp_path / "planted"
    truth = plant_faults(source, target, seed=1, relabelled=0.1, copies=0.1, foreign=0.05)
    names = {str(path.relative_to(target)) for _, path in find_photos(target)}
    assert names == {*truth.originals, *truth.copies_and_foreign}
    assert (len(truth.relabelled), len(truth.copies), len(truth.foreign)) == (4, 4, 2)
    for name, was in truth.relabelled.items():
        assert Path(truth.originals[name]).parent.name == was != Path(name).parent.name
    for copy, original in truth.copies:
        assert Path(copy).parts[0] != Path(original).parts[0]
        assert Path(copy).parts[1] == Path(original).parts[1]
    assert json.loads((target / "truth.json").read_text())["foreign"] == truth.foreign


def test_the_same_seed_plants_the_same(tmp_path: Path) -> None:
    source = make_colours(tmp_path / "source")
    first, again, other = (
        plant_faults(source, tmp_path / name, seed=seed) for name, seed in (("1", 1), ("2", 1), ("3", 2))
    )
    assert first == again
    assert first.originals != other.originals


def test_copies_of_copies_share_a_group() -> None:
    groups = join_copies(6, [(0, 1), (1, 2)], ("a", "b", "c", "d", "d", ""))
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4] != groups[5]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_checks_find_most_of_what_was_planted(photos: Path, tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("features of 3,700 photos: --full")
    target = tmp_path / "planted"
    truth = plant_faults(photos / "flowers5", target, seed=0, others=[photos / "rsscn7_aerial"], limit=500)
    found = run_checks(target, image_size=128, cache_dir=tmp_path / "cache")
    clean = run_checks(photos / "flowers5", image_size=128, cache_dir=tmp_path / "cache")
    figures = score(found, clean, truth)
    assert figures["copies_recall"] >= 0.85
    assert figures["copies_false_share"] <= 0.01
    assert figures["labels_precision_at_half"] >= 0.8
    assert figures["foreign_recall"] >= 0.8
