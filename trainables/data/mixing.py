"""MixUp and CutMix as views: partner, share, patch and soft label are drawn per image from a hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.data.views import draw_uniform

NUM_DRAWS = 8
"""Number of values drawn for an image: 0 whether it is mixed, 1 partner, 2 share, 3-4 place of the patch.

A new use takes a new column, so that old views stay.
"""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How images are mixed with others."""

    kind: Literal["none", "mixup", "cutmix"] = "none"
    alpha: float = 1.0
    """Beta parameter of an image's own share."""

    mixed_share: float = 1.0
    """Share of the images that are mixed; the others stay as they are."""

    smallest_side: float = 0.0
    """Smallest side of CutMix' patch, as a share of the image's side."""

    largest_side: float = 1.0
    within_class: bool = False
    """Draw the partner among the images of the image's own class; its label then stays whole."""

    @property
    def is_on(self) -> bool:
        return self.kind != "none" and self.mixed_share > 0

    @property
    def identity(self) -> str:
        """All that a mixed view depends on beside the views that it mixes; empty where nothing is mixed."""
        limits = f",{self.smallest_side},{self.largest_side}" if self.kind == "cutmix" else ""
        within = ",within class" if self.within_class else ""
        return f"{self.kind}({self.alpha},{self.mixed_share}{limits}{within})" if self.is_on else ""


NO_MIX = Mix()


@dataclass(frozen=True)
class MixDraws:
    """Drawn values of a batch: what is mixed into each of its images."""

    is_mixed: NDArray[np.bool_]
    partners: NDArray[np.float64]
    """Partner of each image as a position in [0, 1) among all images, or among those of its class, in an
    order that the caller defines."""

    own_shares: NDArray[np.float64]
    """Share of the image itself in its view and label; 1 where it is not mixed."""

    patches: NDArray[np.int64] | None
    """CutMix only: int64 [B, 4], top, left, bottom, right in pixels; no area where the image is not mixed."""


def draw_mix(
    mix: Mix, *, seed: int, epoch: int, ids: NDArray[Any], copy: int | NDArray[Any] = 0, size: int
) -> MixDraws:
    """Draw how each image is mixed: the same in whatever batch it comes.

    CutMix' patch lies inside the image. Its sides are drawn between their limits, not clipped to them, which
    would make the limits the likeliest sizes. The partner's share of the label is the patch's area in pixels.
    """
    draws = draw_uniform(seed, f"mix/{mix.kind}", epoch, ids, NUM_DRAWS, copy=copy)
    is_mixed = draws[:, 0] < mix.mixed_share
    if mix.kind == "mixup":
        own = _beta_quantile(draws[:, 2], mix.alpha)
        return MixDraws(is_mixed, draws[:, 1], np.where(is_mixed, own, 1.0), None)
    limits = (1 - mix.largest_side**2, 1 - mix.smallest_side**2)
    own = _beta_quantile(draws[:, 2], mix.alpha, between=limits)
    sides = np.where(is_mixed, np.rint(np.sqrt(1 - own) * size), 0).astype(np.int64)
    corners = np.floor(draws[:, 3:5] * (size - sides + 1)[:, None]).astype(np.int64)
    patches = np.concatenate([corners, corners + sides[:, None]], axis=1)
    return MixDraws(is_mixed, draws[:, 1], 1 - (sides / size) ** 2, patches)


def mix_views(views: Tensor, partners: Tensor, draws: MixDraws) -> Tensor:
    """Mix views, float [B, 3, size, size], with their partners' views of the same shape."""
    if draws.patches is None:
        own = torch.from_numpy(draws.own_shares).to(views)[:, None, None, None]
        return torch.lerp(partners, views, own)
    steps = torch.arange(views.shape[-1], device=views.device)
    edges = torch.from_numpy(draws.patches).to(views.device)[:, :, None]
    down = (steps >= edges[:, 0]) & (steps < edges[:, 2])
    across = (steps >= edges[:, 1]) & (steps < edges[:, 3])
    return torch.where(down[:, None, :, None] & across[:, None, None, :], partners, views)


def mix_labels(labels: Tensor, partners: Tensor, draws: MixDraws, *, num_classes: int) -> Tensor:
    """Soft labels, float [B, classes]: each class's share of an image; a row sums to 1."""
    own = torch.from_numpy(draws.own_shares).to(labels.device, torch.float32)[:, None]
    first, second = (functional.one_hot(each, num_classes).float() for each in (labels, partners))
    return torch.lerp(second, first, own)


def _beta_quantile(
    draws: NDArray[np.float64], alpha: float, *, between: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.float64]:
    """Turn uniform draws into draws of Beta(alpha, alpha), truncated to two limits."""
    from scipy.special import betainc, betaincinv  # 0.2 s, for mixing only

    lowest, highest = (float(betainc(alpha, alpha, limit)) for limit in between)
    shares: NDArray[np.float64] = betaincinv(alpha, alpha, lowest + draws * (highest - lowest))
    return shares.clip(*between)
