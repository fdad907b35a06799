"""FrozenPrefixes: one pass of a frozen backbone over the images gives the activations of several depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from trainables.device.accelerator import autocast
from trainables.model.classifier import Normalise, channels_last, probe_images
from trainables.model.cpu.folding import find_folds, fold, folded
from trainables.model.networks import normalisation
from trainables.model.stages import UNTRACEABLE, Depth, cut, cut_at_all


@dataclass(frozen=True)
class Segment:
    """The layers between the cut of the next greater depth, or the images, and the cut of this depth."""

    depth: Depth
    layers: nn.Module
    is_exact: bool
    """Whether its output was found equal to that of the depth's own prefix; if not, it only leads on."""
    row_shape: tuple[int, ...] = ()
    """Shape of one image's activations."""


class FrozenPrefixes:
    """The frozen prefixes of several unfreeze depths; each continues that of the next greater depth."""

    def __init__(self, backbone: nn.Module, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)
        self._normalise = Normalise(*normalisation(backbone))
        self.row_shapes = {segment.depth: segment.row_shape for segment in segments if segment.is_exact}
        """Shape of one image's activations by depth, greatest depth (shortest prefix) first."""

    def to(self, device: torch.device) -> FrozenPrefixes:
        """Move the normalisation to the device; the network stays where it is."""
        self._normalise.to(device)
        return self

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Iterator[tuple[Depth, Tensor]]:
        """Yield (depth, activations), greatest depth first, for images in [0, 1]; stop when you have enough.

        The numbers are those of `Classifier.prefix_features` at that depth.
        """
        with autocast(images.device):
            state = self._normalise(channels_last(images))
        for segment in self._segments:
            with autocast(images.device):
                state = segment.layers(state)
            if segment.is_exact:
                yield segment.depth, state.float()


def make_frozen_prefixes(backbone: nn.Module, depths: Sequence[Depth], *, image_size: int) -> FrozenPrefixes:
    """Build the prefixes of those depths at which the backbone has one; in eval mode, sharing its weights.

    A depth whose output on random images is not bit for bit that of its own prefix is left out.
    """
    prefixes = {depth: prefix for depth in depths if (prefix := _prefix(backbone, depth)) is not None}
    try:
        parts = cut_at_all(backbone, tuple(prefixes))
    except UNTRACEABLE:
        parts = []
    device = next(backbone.parameters()).device
    images = probe_images(torch.empty(0, 3, image_size, image_size, device=device))
    folds = find_folds(backbone, images)
    parts = [(depth, fold(part, folds)) for depth, part in parts]
    every = FrozenPrefixes(backbone, [Segment(depth, part, True) for depth, part in parts]).to(device)
    found = dict(every.outputs(images))
    segments = [
        Segment(
            depth,
            part,
            is_exact=_is_same(prefixes[depth], backbone, images, found[depth]),
            row_shape=tuple(found[depth].shape[1:]),
        )
        for depth, part in parts
    ]
    return FrozenPrefixes(backbone, segments).to(device)


def _prefix(backbone: nn.Module, depth: Depth) -> nn.Module | None:
    try:
        prefix, _ = cut(backbone, depth)
    except ValueError:  # a depth for another backbone, which has more stages
        return None
    return None if isinstance(prefix, nn.Identity) else prefix


@torch.no_grad()
def _is_same(prefix: nn.Module, backbone: nn.Module, images: Tensor, rows: Tensor) -> bool:
    """Whether a trial's own prefix, with the folds found in it, gives these rows, to the last bit."""
    prefix = prefix.eval() if isinstance(prefix, fx.GraphModule) else prefix
    whole = nn.Sequential(Normalise(*normalisation(backbone)).to(images.device), prefix)
    with autocast(images.device):
        alone: Tensor = folded(whole, images)(images)
    return torch.equal(alone.float(), rows)
