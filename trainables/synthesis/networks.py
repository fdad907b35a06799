"""The two networks of the class-conditional GAN: a generator of images, and a discriminator of real ones.

Both are those of DCGAN (Radford et al. 2016, arXiv:1511.06434), narrow enough for a CPU, with what has proved
itself since. The generator doubles the side from 4 pixels on; the class and the latent vector scale and shift
every normalised map (Brock et al. 2019, arXiv:1809.11096). Upsampling and a gated convolution, as in FastGAN
(arXiv:2101.04775), took 3.2 to 3.9 times as long forward and back at 32 pixels on one core. The discriminator
halves the side down to 4 pixels under spectral norm (Miyato et al. 2018, arXiv:1802.05957), and judges the
class by a projection (Miyato and Koyama 2018, arXiv:1802.05637).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

SIZES = (32, 64, 128)
"""Sides in pixels that the networks can be built for: FIRST_SIDE, doubled a few times."""

FIRST_SIDE = 4
"""Side in pixels of the smallest map."""

SLOPE = 0.2
"""Slope of the discriminator's leaky rectifier for negative values, as in DCGAN (arXiv:1511.06434)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything that fixes the form of both networks."""

    image_size: int
    num_classes: int
    channels: int = 3
    """3, or 1 where all real images are grey."""

    latent: int = 64
    """Entries of the latent vector that an image is made from."""

    embedding: int = 32
    """Entries of the vector that stands for a class in the generator."""

    width: int = 16
    """Channels of the maps of 32 pixels and more; doubled at each smaller side."""

    widest: int = 128
    """Most channels of any map."""

    def __post_init__(self) -> None:
        if self.image_size not in SIZES:
            choices = ", ".join(map(str, SIZES))
            raise ValueError(f"--image-size must be one of {choices}, got {self.image_size}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the maps, from the smallest side, 4 pixels, to the side of the image."""
        sides = [FIRST_SIDE]
        while sides[-1] < self.image_size:
            sides.append(2 * sides[-1])
        return tuple(min(self.widest, max(self.width, self.width * 32 // side)) for side in sides)


class _ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are linear in a vector for each image."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(maps), 1 + scale)


class _UpBlock(nn.Module):
    """Doubles the side of maps: a transposed convolution, a conditional norm and a rectifier."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm = _ConditionalNorm(outputs, condition)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        return functional.relu(self.norm(self.convolution(maps), condition))


class Generator(nn.Module):
    """Makes images of given classes from latent vectors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        widths, condition = shape.widths, shape.latent + shape.embedding
        self.embedding = nn.Embedding(shape.num_classes, shape.embedding)
        self.first = nn.Linear(condition, widths[0] * FIRST_SIDE**2)
        self.blocks = nn.ModuleList(_UpBlock(*pair, condition) for pair in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], shape.channels, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Latent vectors [B, latent] and classes [B] -> images [B, channels, side, side] in [-1, 1]."""
        condition = torch.cat([latents, self.embedding(labels)], dim=1)
        maps = self.first(condition).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))
        maps = maps.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            maps = block(maps, condition)
        return self.last(maps).tanh()


class _DownBlock(nn.Module):
    """Halves the side of maps: a strided convolution, plus averages of 2 by 2 through one of 1 by 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
        self.side = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        beside = self.side(functional.avg_pool2d(maps, 2))
        return functional.leaky_relu(self.main(maps), SLOPE) + beside


class Discriminator(nn.Module):
    """Scores images, higher for what looks like a real image of the given class."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = shape.widths[::-1]
        self.first = spectral_norm(nn.Conv2d(shape.channels, widths[0], 3, padding=1))
        self.blocks = nn.Sequential(*(_DownBlock(*pair) for pair in pairwise(widths)))
        self.score = spectral_norm(nn.Linear(widths[-1], 1))
        self.classes = spectral_norm(nn.Embedding(shape.num_classes, widths[-1]))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [B, channels, side, side] in [-1, 1] and classes [B] -> scores [B, 1]."""
        maps = self.blocks(functional.leaky_relu(self.first(images), SLOPE))
        features = functional.leaky_relu(maps, SLOPE).sum(dim=(2, 3))
        projection = (features * self.classes(labels)).sum(dim=1, keepdim=True)
        scores: Tensor = self.score(features) + projection
        return scores


def build_networks(
    shape: Shape, *, seed: int, discriminator: Callable[[Shape], nn.Module] = Discriminator
) -> tuple[Generator, nn.Module]:
    """Build both networks with weights drawn from the seed; nothing else's random numbers are touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        networks = Generator(shape), discriminator(shape)
    for network in networks:
        network.to(memory_format=torch.channels_last)
    return networks
