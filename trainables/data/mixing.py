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
"""0: whether, 1: partner, 2: share, 3-4: place of the patch. A new use takes a new column."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How images are mixed with others."""

    kind: Literal["none", "mixup", "cutmix"] = "none"
    alpha: float = 1.0
    """Beta parameter of an image's own share."""

    mixed_share: float = 1.0
    """Of the images; the others stay as they are."""

    smallest_side: float = 0.0
    """Of CutMix' patch, as a share of the image's side."""

    largest_side: float = 1.0

    @property
    def is_on(self) -> bool:
        return self.kind != "none" and self.mixed_share > 0

    @property
    def identity(self) -> str:
        """All that a mixed view depends on beside the views that it mixes; empty where none is."""
        limits = f",{self.smallest_side},{self.largest_side}" if self.kind == "cutmix" else ""
        return f"{self.kind}({self.alpha},{self.mixed_share}{limits})" if self.is_on else ""


NO_MIX = Mix()


@dataclass(frozen=True)
class MixDraws:
    """What is mixed into each image of a batch."""

    is_mixed: NDArray[np.bool_]
    partners: NDArray[np.float64]
    """In [0, 1): which of all images, counted in an order of the caller's."""

    own_shares: NDArray[np.float64]
    """Of the image itself; 1 where it stays as it is."""

    patches: NDArray[np.int64] | None
    """CutMix: top, left, bottom, right in pixels; empty where the image stays as it is."""


def draw_mix(
    mix: Mix, *, seed: int, epoch: int, ids: NDArray[Any], copy: int | NDArray[Any] = 0, size: int
) -> MixDraws:
    """Draw for each image alone: the same in whatever batch it comes.

    CutMix' patch lies inside the image, and its sides are drawn between their limits, not cut off at them:
    cut off, the limits would be the likeliest sizes. The label's share is the patch's area in pixels.
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
    """Mix float [B, 3, size, size] with their partners' views, all of the batch."""
    if draws.patches is None:
        own = torch.from_numpy(draws.own_shares).to(views)[:, None, None, None]
        return torch.lerp(partners, views, own)
    steps = torch.arange(views.shape[-1], device=views.device)
    edges = torch.from_numpy(draws.patches).to(views.device)[:, :, None]
    down = (steps >= edges[:, 0]) & (steps < edges[:, 2])
    across = (steps >= edges[:, 1]) & (steps < edges[:, 3])
    return torch.where(down[:, None, :, None] & across[:, None, None, :], partners, views)


def mix_labels(labels: Tensor, partners: Tensor, draws: MixDraws, *, num_classes: int) -> Tensor:
    """Each class's share of every image, float [B, classes]; they sum to 1."""
    own = torch.from_numpy(draws.own_shares).to(labels.device, torch.float32)[:, None]
    first, second = (functional.one_hot(each, num_classes).float() for each in (labels, partners))
    return torch.lerp(second, first, own)


def _beta_quantile(
    draws: NDArray[np.float64], alpha: float, *, between: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.float64]:
    """Uniform draws to draws of Beta(alpha, alpha) between two limits."""
    from scipy.special import betainc, betaincinv  # 0.2 s, for mixing only

    lowest, highest = (float(betainc(alpha, alpha, limit)) for limit in between)
    shares: NDArray[np.float64] = betaincinv(alpha, alpha, lowest + draws * (highest - lowest))
    return shares.clip(*between)
