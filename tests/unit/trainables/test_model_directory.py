"""A model's directory is complete: it can be used, and checked, without this project."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from tests.tiny_models import CLASSES, encode, write_whole_model
from trainables.export.golden import make_golden_images

ONLY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "timm ray mlflow optuna serving trainables analysis".split():
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Refuse())
sys.argv = ["example.py", *sys.argv[1:]]
import runpy
runpy.run_path("example.py", run_name="__main__")
"""
"""Runs the example as it would run where nothing of this project is installed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return write_whole_model(tmp_path_factory.mktemp("models") / "colours")


def test_a_copied_directory_classifies_by_its_own_example(model: ModelPaths, tmp_path: Path) -> None:
    copied = shutil.copytree(model.directory, tmp_path / "elsewhere")
    (copied / "photo.png").write_bytes(encode("green"))
    (copied / "dark.png").write_bytes(encode("#400000"))

    run = subprocess.run(
        [sys.executable, "-I", "-c", ONLY, "photo.png", "dark.png"],
        cwd=copied,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not run.returncode, run.stderr

    first, second = run.stdout.splitlines()
    assert first.startswith("green  0.9999  photo.png")
    assert second.startswith("red ")
    assert second.endswith("(looks like none of the classes)")


def test_golden_images_are_always_the_same_and_of_many_kinds(model: ModelPaths) -> None:
    images = make_golden_images()

    assert images == make_golden_images()
    assert len(images) == 8
    assert {name.rpartition(".")[2] for name in images} == {"png", "jpg", "bmp", "gif"}
    assert all((model.golden / name).read_bytes() == content for name, content in images.items())
    assert sum(map(len, images.values())) < 300_000


def test_golden_probabilities_are_those_of_the_images_as_the_card_reads_them(model: ModelPaths) -> None:
    card = ModelCard.load(model)
    for row in json.loads(model.golden_facts.read_text(encoding="utf-8"))["images"]:
        means = card.read_image(model.golden / row["file"]).mean(axis=(1, 2)).astype(np.float64)
        shares = np.exp(20 * means) / np.exp(20 * means).sum()

        np.testing.assert_allclose(row["probabilities"], shares, atol=1e-4)


def test_labels_stand_one_a_line(model: ModelPaths) -> None:
    assert model.labels.read_text(encoding="utf-8").splitlines() == list(CLASSES)


def test_checksums_name_what_changed_and_what_is_gone(model: ModelPaths, tmp_path: Path) -> None:
    copied = ModelPaths(shutil.copytree(model.directory, tmp_path / "model"))
    assert copied.find_changed() == []

    copied.labels.write_text("others\n", encoding="utf-8")
    copied.example.unlink()

    assert copied.find_changed() == ["example.py", "labels.txt"]
    copied.checksums.unlink()
    with pytest.raises(ValueError, match="export the model again"):
        copied.find_changed()
