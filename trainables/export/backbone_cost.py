"""What a backbone costs for one image: multiply-adds, and milliseconds on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from contract.messages import StudySettings
from trainables.export.frozen_features import FrozenBackbone
from trainables.export.latency import time_ms
from trainables.model.backbones import Backbone, find_backbone
from trainables.model.networks import make_backbone

BATCH = 32
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class BackboneCost:
    """Cost of one image on its way through a backbone, without a head."""

    multiply_adds: int
    milliseconds: float
    """In batches of 32, frozen, as features are computed; other work on the machine counts, too."""


def measure_cost(name: str, settings: StudySettings) -> BackboneCost:
    """Count and time a backbone at the study's image size."""
    device = torch.device("cuda" if settings.use_gpu else "cpu")
    side = settings.image_size
    frozen = FrozenBackbone.of({"backbone": name}, settings, device=device)
    images = torch.zeros(BATCH, 3, side, side, device=device)
    took = time_ms(frozen.classifier.prefix_features, images, repeats=REPEATS, warm_ups=1)
    return BackboneCost(
        multiply_adds=count_multiply_adds(find_backbone(name), image_size=side), milliseconds=took / BATCH
    )


@torch.inference_mode()
def count_multiply_adds(backbone: Backbone, *, image_size: int) -> int:
    """Count the multiply-adds of convolutions, matrix products and attention for one image.

    The network's shapes are gone through without computing anything.
    """
    module = make_backbone(backbone, image_size=image_size).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, image_size, image_size, device="meta"))
    return int(counter.get_total_flops()) // 2
