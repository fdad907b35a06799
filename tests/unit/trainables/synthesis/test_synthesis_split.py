"""The GAN sees images of the train split alone, the very one of a study with the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.files import save_json
from contract.study_layout import StudyPaths
from trainables.checks.known_copies import find_copies
from trainables.data.datasets import find_images
from trainables.data.manifest import Manifest
from trainables.images.preparation import prepare_images
from trainables.synthesis.train_images import (
    HELD_FROM,
    Source,
    choose_classes,
    hold_back,
    load_train_images,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 40 images and one of 12, each image of its own colours."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, number in (("a", 40), ("b", 40), ("few", 12)):
        (folder / name).mkdir()
        for at in range(number):
            pixels = random.integers(0, 256, (36, 36, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{at:02d}.png")
    return folder


def source_of(photos: Path, tmp_path: Path, **changes: object) -> Source:
    values = {"data": str(photos), "seed": 4, "fit": "crop", "cache_dir": tmp_path, "cache_gb": 1.0}
    return Source(**{**values, **changes})  # type: ignore[arg-type]


def manifest_of_study(photos: Path, tmp_path: Path, *, seed: int) -> Manifest:
    """The images of a study as wiring reads them for tune.py."""
    return prepare_images(
        find_images(str(photos), cache_dir=tmp_path),
        fits=["crop"],
        image_size=128,
        cache_dir=tmp_path,
        budget_gb=1.0,
        seed=seed,
        refuse_bad=False,
        find_copies=find_copies,
    )[0]


def test_images_are_the_train_split_of_a_study_and_nothing_of_the_others(
    photos: Path, tmp_path: Path
) -> None:
    manifest = manifest_of_study(photos, tmp_path, seed=4)

    images = load_train_images(source_of(photos, tmp_path), image_size=32, console=None)

    train = {manifest.digests[row] for row in manifest.indices("train")}
    others = {manifest.digests[row] for name in ("val", "test") for row in manifest.indices(name)}
    assert set(images.digests) == train
    assert len(others) == 27
    assert not set(images.digests) & others
    assert images.fingerprint == manifest.fingerprint
    assert images.pixels.shape == (len(train), 32, 32, 3)
    for path, pixels in list(zip(images.paths, images.pixels, strict=True))[:5]:
        assert abs(float(np.asarray(Image.open(path)).mean()) - float(pixels.mean())) < 3


def test_split_of_a_study_is_taken_with_another_seed(photos: Path, tmp_path: Path) -> None:
    manifest = manifest_of_study(photos, tmp_path, seed=7)
    paths = StudyPaths(tmp_path / "study")
    paths.directory.mkdir()
    save_json(paths.facts, {"data": {"classes": manifest.classes}, "image_size": 128})
    manifest.write_csv(paths.manifest)

    images = load_train_images(
        source_of(photos, tmp_path, study=paths.directory), image_size=32, console=None
    )

    assert images.fingerprint == manifest.fingerprint


def test_folder_that_is_no_study_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--study: .* holds no study"):
        load_train_images(source_of(photos, tmp_path, study=photos), image_size=32, console=None)


def test_only_classes_that_can_spare_images_hold_some_back() -> None:
    labels = np.repeat([0, 1], [HELD_FROM, HELD_FROM - 1])

    held = hold_back(labels, np.arange(len(labels)), seed=0)

    assert held[labels == 0].sum() == 5
    assert not held[labels == 1].any()


def test_images_that_have_a_copy_are_not_held_back() -> None:
    labels, groups = np.zeros(60, np.int64), np.arange(60)
    groups[:30] //= 2

    held = hold_back(labels, groups, seed=0)

    assert held.sum() == 6
    assert not held[:30].any()


def test_rare_classes_have_fewer_than_half_of_the_median() -> None:
    counts = np.array([100, 49, 50, 100, 100])

    assert choose_classes(["rare"], "abcde", counts) == [1]


def test_without_names_all_classes_are_meant_and_named_ones_else() -> None:
    counts = np.array([10, 10])

    assert choose_classes([], ("x", "y"), counts) == [0, 1]
    assert choose_classes(["y"], ("x", "y"), counts) == [1]


@pytest.mark.parametrize(("asked", "why"), [("rare", "no class has fewer than 5"), ("z", "no class 'z'")])
def test_classes_that_are_not_there_are_refused(asked: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        choose_classes([asked], ("x", "y"), np.array([10, 10]))
