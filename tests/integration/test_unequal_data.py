"""Searches on data that are few, many or unequal, as a user runs them, and their pages without a photo."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.export.golden import make_golden_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PHOTO = re.compile(r"data:image/(jpeg|png|webp)")


def search(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"))
    words = (
        sys.executable,
        "tune.py",
        "--space",
        "demo",
        "--data",
        str(folder / "images"),
        "--study",
        "mine",
    )
    words += ("--image-size", "32", "--concurrent", "1", *places, *flags)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def write_folder(folder: Path, count: int, *, side: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def without_code(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_tiny_unequal_images_with_classes_missing_in_val_end_in_a_page_without_a_photo(
    tmp_path: Path,
) -> None:
    """33 training images of 2 x 2 pixels in batches of 32; val lacks a class, and 19 of 20 are of one."""
    counts = {"train/good": 27, "train/bad": 3, "train/rare": 3, "val/good": 19, "val/bad": 1, "test/rare": 2}
    for seed, (place, count) in enumerate(counts.items()):
        write_folder(tmp_path / "images" / place, count, side=2, seed=seed)

    done = search(tmp_path, "--trials", "1", "--max-epochs", "2", "--no-images")

    assert done.returncode == 0, done.stderr
    shown = re.sub(r"\s+", " ", done.stdout)
    assert "always answering good (19 of 20 validation images) would reach 0.9500" in shown
    assert "--metric val_macro_f1 or val_balanced_accuracy" in shown
    assert "warning" not in (done.stdout + done.stderr).lower()
    study = tmp_path / "runs" / "mine"
    assert json.loads((study / "study.json").read_text(encoding="utf-8"))["no_images"] is True
    page = without_code((study / "report.html").read_text(encoding="utf-8"))
    assert "Without a validation image: rare." in page and not re.search(r"\bnan\b", page, re.IGNORECASE)
    generated = make_golden_images()
    for path in (tmp_path / "runs").rglob("*"):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"):
            assert path.parent.name == "golden" and path.read_bytes() == generated[path.name], path
        if path.suffix == ".html":
            text = without_code(path.read_text(encoding="utf-8"))
            assert not PHOTO.search(text) and "<img" not in text, path


def write_grouped(folder: Path) -> None:
    """40 groups of 10 images: other patterns in the group's own two colours; its label was drawn by lot."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(["a", "b"], 20))
    rows = []
    for group, label in enumerate(labels):
        colours = generator.integers(20, 236, (2, 3))
        for number in range(10):
            cells = colours[generator.integers(0, 2, (6, 6))].repeat(11, axis=0).repeat(11, axis=1)
            pixels = np.clip(cells + generator.normal(0, 8, cells.shape), 0, 255).astype(np.uint8)
            path = folder / f"{group}_{number}.png"
            Image.fromarray(pixels).save(path)
            rows.append(f"{path.name},{label},patient {group}")
    (folder / "grouped.csv").write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    plain = [row.rpartition(",")[0] for row in rows]
    (folder / "plain.csv").write_text("\n".join(["path,label", *plain]), encoding="utf-8")


def test_labels_by_group_score_near_1_without_groups_and_near_chance_with(tmp_path: Path) -> None:
    write_grouped(tmp_path / "images")
    accuracy, pages = {}, {}

    for name in ("plain", "grouped"):
        table = str(tmp_path / "images" / f"{name}.csv")
        flags = ("--study", name, "--trials", "2", "--max-epochs", "8", "--image-size", "64")
        done = search(tmp_path, "--data", table, *flags)
        assert done.returncode == 0, done.stderr
        match = re.search(r"val_accuracy of trial \d is ([0-9.]+)", re.sub(r"\s+", " ", done.stdout))
        assert match is not None
        accuracy[name] = float(match[1])
        pages[name] = (tmp_path / "runs" / name / "report.html").read_text(encoding="utf-8")

    assert accuracy["plain"] > 0.85 > 0.75 > accuracy["grouped"]
    assert "The 400 images are 40 groups, the largest of 10 images" in pages["grouped"]
    assert "nothing was learned that holds for new groups" in pages["grouped"]
    assert "recognises the object and not its class scores near 1" in pages["plain"]


def test_3000_classes_of_3_images_take_minutes_and_megabytes(tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("two minutes; the functions that decide are tested by themselves")
    for label in range(3000):
        write_folder(tmp_path / "images" / f"species {label:04d}", 3, side=16, seed=label)
    started = time.monotonic()

    done = search(tmp_path, "--trials", "2", "--max-epochs", "1")

    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 300
    study = tmp_path / "runs" / "mine"
    sizes = {path.relative_to(study).as_posix(): path.stat().st_size for path in study.rglob("*.*")}
    assert sizes["report.html"] < 8e6 and sizes["study.db"] < 2e6
    assert sizes["trials/0/predictions.npz"] < 3e6
    assert len(done.stderr) < 2000
