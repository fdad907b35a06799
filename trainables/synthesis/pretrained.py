"""A discriminator that sees photos as a pretrained network does, beside one that sees their pixels.

From a few hundred photos a discriminator cannot learn what a flower is; a frozen pretrained network knows it.
Small heads on its maps judge real and generated images (Sauer et al. 2021, arXiv:2111.01007), together with
the discriminator of pixels (Kumari et al. 2022, arXiv:2112.09130). The network is another one than that whose
features measure the images, or the generator would learn to please the measures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from trainables.model.backbones import find_backbone
from trainables.model.networks import make_backbone, normalisation
from trainables.model.weights import AUTO, fetch_weights, load_weights, locate_weights
from trainables.synthesis.networks import FIRST_SIDE, SLOPE, Discriminator, Shape

BACKBONE = "lite1"
"""Its weights ship with the installation, as do those of "lite0", which measures the images."""

SMALLEST_SIDE = 64
"""Side in pixels to which smaller images are enlarged before the network sees them: its last map that is
used is a sixteenth as wide, and FIRST_SIDE at least."""

STAGES = (1, 2, 3)
"""Stages whose maps are judged: a quarter, an eighth and a sixteenth of the image's side wide."""

WIDTH = 64
"""Channels of every map that a head works on."""


class PretrainedMaps:
    """The frozen network, which is no part of a discriminator's weights: they are the same everywhere."""

    def __init__(self, images: Tensor) -> None:
        """Load the network to the device of some real images [N, 3, S, S] in [-1, 1], which set its scale.

        Raises:
            ValueError: there are no weights of it.
        """
        row = find_backbone(BACKBONE)
        self._side = max(SMALLEST_SIDE, images.shape[-1])
        network: Any = make_backbone(row, image_size=self._side)
        load_weights(network, fetch_weights(locate_weights(row, AUTO)))
        self._network = network.to(images.device).eval().requires_grad_(False)
        mean, deviation = normalisation(network)
        self._mean, self._deviation = (images.new_tensor(each).view(1, 3, 1, 1) for each in (mean, deviation))
        self._scales: tuple[float, ...] = (1.0,) * len(STAGES)
        with torch.no_grad():
            maps = self(images)
        self._scales = tuple(float(each.std()) for each in maps)
        self.sizes = [(each.shape[1], each.shape[-1]) for each in maps]
        """Channels and side of every map."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images [B, 1 or 3, S, S] in [-1, 1] -> maps [B, C, s, s] with deviations of about 1."""
        images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] < self._side:
            images = functional.interpolate(images, (self._side, self._side), mode="bilinear")
        images = (images.add(1).div(2) - self._mean) / self._deviation
        maps = self._network.forward_intermediates(
            images.contiguous(memory_format=torch.channels_last),
            indices=list(STAGES),
            stop_early=True,
            intermediates_only=True,
        )
        return [each / scale for each, scale in zip(maps, self._scales, strict=True)]


class _MapHead(nn.Module):
    """Judges a map: every position of 4 by 4 gets a score."""

    def __init__(self, channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        # Random and never trained, so that a head looks at all channels (Sauer et al., section 3.2).
        self.register_buffer("mixture", nn.init.kaiming_normal_(torch.empty(WIDTH, channels, 1, 1)))
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)), nn.LeakyReLU(SLOPE)]
        while side > FIRST_SIDE:
            layers += [spectral_norm(nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE)]
            side //= 2
        self.layers = nn.Sequential(*layers)
        self.score = spectral_norm(nn.Conv2d(WIDTH, 1, 3, padding=1))
        self.classes = spectral_norm(nn.Embedding(num_classes, WIDTH))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        features = self.layers(functional.conv2d(maps, self.get_buffer("mixture")))
        projection = (features * self.classes(labels)[:, :, None, None]).sum(dim=1, keepdim=True)
        scores: Tensor = (self.score(features) + projection).flatten(1)
        return scores


class PretrainedDiscriminator(nn.Module):
    """Scores images by their pixels and by maps of the pretrained network, with equal weight."""

    def __init__(self, shape: Shape, maps: PretrainedMaps) -> None:
        super().__init__()
        self.pixels = Discriminator(shape)
        self.heads = nn.ModuleList(_MapHead(*size, shape.num_classes) for size in maps.sizes)
        self._maps = maps

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [B, channels, side, side] in [-1, 1] and classes [B] -> scores [B, S], half of pixels."""
        maps = self._maps(images)
        of_maps = torch.cat([head(each, labels) for head, each in zip(self.heads, maps, strict=True)], dim=1)
        return torch.cat([self.pixels(images, labels).expand_as(of_maps), of_maps], dim=1)
