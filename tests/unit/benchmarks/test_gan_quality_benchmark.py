"""The benchmark of what `synthesize` rests on runs on a few images, and its figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gan_quality import CHANGES, change, main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 36 images, the one green."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, blue in (("green", 0), ("blue", 255)):
        (folder / name).mkdir()
        for at in range(36):
            coarse = random.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            coarse[..., 2] = blue
            Image.fromarray(coarse).resize((32, 32)).save(folder / name / f"{at:02d}.png")
    return folder


def run(
    what: str, photos: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> dict[str, dict[str, float]]:
    cache = ["--cache-dir", str(photos.parent / "cache"), "--threads", "1"]
    assert main([what, f"{photos}:32", *cache, *flags]) == 0
    found: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    return found


def test_copies_are_found_and_other_images_are_not(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rates,) = run("copies", photos, capsys).values()

    assert set(rates) == {*CHANGES, "left out"}
    assert rates["left out"] == 0
    assert min(rates[name] for name in ("blurred", "noisy", "recoloured", "mirrored")) > 0.9


def test_the_alarm_is_for_repeated_images_alone(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rates,) = run("collapse", photos, capsys).values()

    assert rates == {"other real": 0, "1 repeated": 1, "2 repeated": 1, "3 repeated": 1, "5 repeated": 1}


def test_both_discriminators_are_trained_and_measured(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run("discriminators", photos, capsys, "--minutes", "0.001")

    assert [title.rpartition(", ")[2] for title in rows] == ["pixels", "pretrained"]
    for cells in rows.values():
        assert cells["epochs"] > 0
        assert 0 <= cells["coverage"] <= 1


def test_changed_images_are_bytes_of_the_same_shape() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)

    for how in CHANGES.values():
        changed = change(images, how, np.random.default_rng(1))
        assert (changed.shape, changed.dtype) == (images.shape, np.dtype(np.uint8))
        assert not np.array_equal(changed, images)
