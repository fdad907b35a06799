"""The search that an expert writes, without Ray: its features, its heads and its photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.versus_plain import expert_ray_tune, plain_ray_tune
from tests.tiny_data import CLASSES, write_images

CONFIG = {**expert_ray_tune.USUAL, "backbone": "lite0", "learning_rate": 0.03, "batch_size": 16}


def make_data(num_rows: int = 65) -> dict[str, Any]:
    """Features of three classes that lie far apart; 65 rows leave a batch of one."""
    random = np.random.default_rng(0)
    labels = np.arange(num_rows) % 3
    features = random.normal(size=(num_rows, 8)).astype(np.float32)
    features[np.arange(num_rows), labels] += 6
    return {"lite0": {"train": (features, labels), "val": (features[:30], labels[:30])}}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("shape", [{"width": 0}, {"width": 128}, {"width": 128, "batch_norm": True}])
def test_a_head_of_every_shape_learns_classes_that_lie_apart(optimizer: str, shape: dict[str, Any]) -> None:
    head = expert_ray_tune.Head({**CONFIG, "optimizer": optimizer, **shape}, make_data(), 4)

    accuracies = [head.train_epoch() for _ in range(4)]

    assert accuracies[-1] > 0.95
    assert head.schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-6)


def test_the_best_head_trained_again_is_the_same_head() -> None:
    one, other = (expert_ray_tune.Head({**CONFIG, "dropout": 0.5}, make_data(), 2) for _ in range(2))
    one.train_epoch()

    again = expert_ray_tune.Head({**CONFIG, "dropout": 0.5}, make_data(), 2)
    again.train_epoch()

    first, last = one.net.state_dict(), again.net.state_dict()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert not torch.equal(first["1.weight"], other.net.state_dict()["1.weight"])


@pytest.mark.slow
def test_features_are_what_the_plain_script_gives_its_head(tmp_path: Path) -> None:
    rows = expert_ray_tune.read_rows(write_images(tmp_path / "images"), 15)["train"]
    pixels, labels = expert_ray_tune.read_photos(rows, 64)

    features = expert_ray_tune.compute_features(pixels, "lite0")

    plain = plain_ray_tune.make_model(3, unfreeze_depth=0, dropout=0.0).eval()
    (images, plain_labels) = next(iter(plain_ray_tune.make_loader(rows, "none", 64, 64, shuffle=False)))
    with torch.inference_mode():
        expected = plain.forward_head(plain.forward_features(pixels), pre_logits=True)
    assert (images - pixels).abs().max() <= 2.1 / 255 * 2  # resized as a tensor there, by Pillow here
    assert torch.allclose(features, expected, atol=1e-4)
    assert labels.tolist() == plain_labels.tolist()


def test_a_fifth_of_a_folder_validates_and_classes_are_equally_large(tmp_path: Path) -> None:
    rows = expert_ray_tune.read_rows(write_images(tmp_path / "images"), 30)

    counts = {split: np.bincount([label for _, label in own]).tolist() for split, own in rows.items()}
    assert counts == {"train": [8] * len(CLASSES), "val": [2] * len(CLASSES)}
    assert not {path for path, _ in rows["train"]} & {path for path, _ in rows["val"]}
