"""Trains the conditional GAN, one update of both networks at a time; its state can be saved after each.

Every random number is drawn from (seed, update), so that a training that was killed and goes on from a saved
state ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainables.device.accelerator import autocast
from trainables.synthesis.augmentation import augment_for_discriminator
from trainables.synthesis.networks import Discriminator, Generator, Shape, build_networks
from trainables.synthesis.pretrained import PretrainedDiscriminator, PretrainedMaps

Pixels = NDArray[np.uint8]

DiscriminatorKind = Literal["pixels", "pretrained"]
"""What the discriminator sees: pixels only, or also the maps of a pretrained network."""

BATCH = 32
"""Real images, and generated ones, of an update."""

AT_ONCE = 256
"""Images that are generated at a time."""


class TrainingDiverged(RuntimeError):
    """Raised where a loss is no finite number any more."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Step sizes of the two networks and of the average."""

    generator: float = 5e-4
    discriminator: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.99)
    """Adam's; little momentum, as in DCGAN (arXiv:1511.06434), for the opponent moves."""

    average: float = 0.998
    """Share of the averaged weights that an update keeps, once the average has warmed up."""


def random_stream(seed: int, purpose: str, number: int) -> torch.Generator:
    """A source of random numbers that depends on the three alone."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class GanTraining:
    """Both networks, their optimizers and the averaged generator, at a certain update."""

    def __init__(
        self,
        images: Pixels,
        labels: NDArray[np.int64],
        *,
        shape: Shape,
        seed: int,
        rates: Rates | None = None,
        discriminator: DiscriminatorKind = "pixels",
        mirror: bool = False,
        device: str = "cpu",
    ) -> None:
        """Build the networks.

        Args:
            images: training images [N, S, S, 3] of the networks' size.
            labels: their classes [N].
            discriminator: what it sees of the images, see DiscriminatorKind.
            mirror: show the discriminator half of the images mirrored left to right.
        """
        rates = rates or Rates()
        self.shape, self.seed, self.device = shape, seed, torch.device(device)
        self.step = 0
        self._mirror, self._keep = mirror, rates.average
        self._images = torch.from_numpy(np.ascontiguousarray(images[..., : shape.channels])).to(self.device)
        self._labels = torch.from_numpy(labels).to(self.device)
        self._weights = image_weights(labels)
        build = Discriminator if discriminator == "pixels" else self._see_as_pretrained()
        generator, judge = build_networks(shape, seed=seed, discriminator=build)
        self.generator, self.discriminator = generator.to(self.device), judge.to(self.device)
        self.average = deepcopy(self.generator).eval().requires_grad_(False)
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=rates.betas)
            for network, rate in (
                (self.generator, rates.generator),
                (self.discriminator, rates.discriminator),
            )
        ]

    def _see_as_pretrained(self) -> Callable[[Shape], nn.Module]:
        rows = torch.linspace(0, len(self._images) - 1, min(AT_ONCE, len(self._images))).long()
        maps = PretrainedMaps(to_signed(self._images[rows]))
        return partial(PretrainedDiscriminator, maps=maps)

    def update(self) -> tuple[Tensor, Tensor]:
        """Train both networks on a batch, with the hinge loss (Lim and Ye 2017, arXiv:1705.02894).

        Returns:
            Losses of the generator and the discriminator.
        """
        draws = random_stream(self.seed, "update", self.step)
        rows = torch.multinomial(self._weights, BATCH, replacement=True, generator=draws).to(self.device)
        real, labels = to_signed(self._images[rows]), self._labels[rows]
        if self._mirror:
            flips = torch.rand(BATCH, generator=draws).to(self.device) < 0.5
            real = torch.where(flips[:, None, None, None], real.flip(3), real)
        latents = torch.randn(BATCH, self.shape.latent, generator=draws).to(self.device)
        with autocast(self.device):
            fake = self.generator(latents, labels).float()
        judged = self._train_discriminator(real, fake.detach(), labels, draws)
        made = self._train_generator(fake, labels, draws)
        self._follow()
        self.step += 1
        return made, judged

    def _train_discriminator(
        self, real: Tensor, fake: Tensor, labels: Tensor, draws: torch.Generator
    ) -> Tensor:
        both = augment_for_discriminator(torch.cat([real, fake]), draws)
        with autocast(self.device):
            scores = self.discriminator(both, labels.repeat(2)).float()
        of_real, of_fake = scores.chunk(2)
        loss = functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()
        self._apply(self._optimizers[1], loss)
        return loss.detach()

    def _train_generator(self, fake: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        with autocast(self.device):
            scores = self.discriminator(augment_for_discriminator(fake, draws), labels)
        loss = -scores.float().mean()
        self._apply(self._optimizers[0], loss)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _apply(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged generator towards the trained one: fast at first, when both are far from good."""
        keep = min(self._keep, (1 + self.step) / (10 + self.step))
        averaged, trained = self.average.state_dict(), self.generator.state_dict()
        for name, value in averaged.items():
            if value.is_floating_point():
                value.lerp_(trained[name], 1 - keep)
            else:
                value.copy_(trained[name])

    def check(self, losses: Tensor) -> None:
        """Check that the training goes on as it should.

        Raises:
            TrainingDiverged: one of the losses is no finite number.
        """
        if not math.isfinite(float(losses.sum())):
            raise TrainingDiverged(
                f"the loss at update {self.step} is no number any more: try another --seed, or more images"
            )

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, beside the images."""
        return {
            "step": self.step,
            "networks": [network.state_dict() for network in self._networks],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step = int(state["step"])
        for network, values in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(values)
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        return self.generator, self.discriminator, self.average


def image_weights(labels: NDArray[np.int64]) -> Tensor:
    """How often each image is drawn: a class in proportion to the square root of its images.

    So a rare class is seen more often than it would be, and its images are not repeated as often as if all
    classes were equal (Mahajan et al. 2018, arXiv:1805.00932).
    """
    counts = np.bincount(labels)
    return torch.from_numpy(1 / np.sqrt(counts[labels]))


def to_signed(images: Tensor) -> Tensor:
    """Bytes [N, S, S, C] as floats [N, C, S, S] in [-1, 1], in the channels-last layout."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Pixels:
    """Floats [N, 1 or 3, S, S] in [-1, 1] as bytes [N, S, S, 3]."""
    bytes_ = images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    pixels: Pixels = bytes_.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels)


@torch.no_grad()
def generate(
    generator: Generator, labels: NDArray[np.int64], *, seed: int, purpose: str, number: int = 0
) -> Pixels:
    """Images [N, S, S, 3] of these classes [N], drawn from (seed, purpose, number) alone."""
    latent = generator.shape.latent
    device = next(generator.parameters()).device
    latents = torch.randn(len(labels), latent, generator=random_stream(seed, purpose, number))
    wanted = torch.from_numpy(labels)
    parts = []
    for start in range(0, len(labels), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        parts.append(to_pixels(generator(latents[rows].to(device), wanted[rows].to(device)).float()))
    return np.concatenate(parts)
