"""Numbers that trip others: a last batch of one, images of 2 x 2 pixels, classes without images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from contract.decoding import decode_square
from tests.tiny_data import make_lease, make_settings
from trainables.run import TrialRun
from trainables.training.loop import cut_batches
from trainables.training.metric_sums import MetricSums


@pytest.mark.parametrize(("num_images", "sizes"), [(33, [32]), (34, [32, 2]), (65, [32, 32]), (32, [32])])
def test_a_last_image_on_its_own_waits_for_the_next_epoch(num_images: int, sizes: list[int]) -> None:
    batches = cut_batches(np.arange(num_images), size=32)

    assert [len(batch) for batch in batches] == sizes


def test_images_of_2_x_2_pixels_are_images() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    folder = Image.fromarray(pixels)

    for fit in ("crop", "squash"):
        content = _png(folder)
        square = decode_square(content, size=32, fit=fit).pixels
        assert square.shape == (32, 32, 3)
        assert square[2, 2, 0] > 200 > square[2, 2, 1]


def _png(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_metrics_over_the_classes_present_are_finite() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 0, 3, 3])
    sums = MetricSums.zeros(5, by_class=True)

    sums.update(logits, targets, functional.cross_entropy(logits, targets, reduction="sum"))

    assert all(math.isfinite(value) for value in sums.compute("val").values())


def write_folders(root: Path, counts: dict[str, int], *, side: int) -> Path:
    generator = np.random.default_rng(0)
    for place, count in counts.items():
        (root / place).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    return root


@pytest.mark.parametrize("head_batch_norm", [False, True])
def test_a_trial_copes_with_tiny_images_a_lone_last_one_and_classes_without_validation(
    tmp_path: Path, head_batch_norm: bool
) -> None:
    counts = {"train/a": 6, "train/b": 6, "train/c": 5, "val/a": 2, "val/b": 1}
    settings = make_settings(tmp_path, source=write_folders(tmp_path / "images", counts, side=2))
    lease = make_lease(
        batch_size=16, unfreeze_depth=1, frozen_batch_norm=False, head_batch_norm=head_batch_norm
    )

    run = TrialRun(lease, settings)
    reports = [run.run_epoch() for _ in range(2)]

    assert run.finished
    for report in reports:
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert report.metrics["val_balanced_accuracy"] in {0.0, 0.25, 0.5, 0.75, 1.0}
