"""The GAN on an accelerator: it learns what it does on a CPU, and goes on from its saved state."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tests.gpu.conftest import Measure
from trainables.synthesis.networks import Shape
from trainables.synthesis.training import DiscriminatorKind, GanTraining, generate

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SHAPE = Shape(image_size=64, num_classes=2)
LABELS = np.arange(40) % 2
UPDATES = 6
BFLOAT16_SHARE = 0.1
"""bfloat16 keeps 8 bits of a number, and Adam's first steps are of one size whatever the gradient's: where
rounding turns its sign, a weight steps the other way."""


def make_training(discriminator: DiscriminatorKind, device: str) -> GanTraining:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    images = pixels.repeat(8, axis=1).repeat(8, axis=2)
    return GanTraining(images, LABELS, shape=SHAPE, seed=1, discriminator=discriminator, device=device)


@pytest.mark.parametrize("discriminator", ["pixels", "pretrained"])
def test_losses_and_images_are_those_of_a_cpu(
    discriminator: DiscriminatorKind, device: str, measure: Measure
) -> None:
    here, plain = (make_training(discriminator, each) for each in (device, "cpu"))

    losses = [[torch.stack(one.update()).cpu() for _ in range(UPDATES)] for one in (here, plain)]

    apart = max(float((one - other).abs().max()) for one, other in zip(*losses, strict=True))
    assert apart < BFLOAT16_SHARE * max(float(one.abs().max()) for one in losses[1])
    first, second = (generate(one.average, LABELS, seed=0, purpose="x").astype(int) for one in (here, plain))
    assert np.abs(first - second).mean() < 255 * 0.02
    measure(f"losses {apart:.4f} apart, pixels {np.abs(first - second).mean():.2f} of 255")


@pytest.mark.parametrize("discriminator", ["pixels", "pretrained"])
def test_training_goes_on_from_a_saved_state(
    discriminator: DiscriminatorKind, device: str, measure: Measure
) -> None:
    whole, first, second = (make_training(discriminator, device) for _ in range(3))
    for _ in range(2 * UPDATES):
        whole.update()
    for _ in range(UPDATES):
        first.update()

    second.resume(first.state())
    began = time.perf_counter()
    for _ in range(UPDATES):
        second.update()
    losses = torch.stack(second.update()).tolist()
    seconds = (time.perf_counter() - began) / (UPDATES + 1)

    assert second.step == whole.step + 1
    assert torch.allclose(torch.tensor(losses), torch.stack(whole.update()).cpu(), rtol=0.1, atol=0.1)
    measure(f"{1000 * seconds:.0f} ms an update")
