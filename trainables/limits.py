"""Checks a classifier against the user's limits on size and speed, which only a worker can measure."""

from __future__ import annotations

import time

import torch

from trainables.model.classifier import Classifier
from trainables.training.process_group import ProcessGroup

WARM_UPS = 3
REPEATS = 10


class OutsideLimits(Exception):
    """The configuration exceeds a limit of the study, however well it does."""

    def __init__(self, limit: str, excess: float) -> None:
        super().__init__(limit, excess)
        self.excess = excess
        """Excess over the limit, as a share of the limit."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_limits(
    classifier: Classifier,
    *,
    image_size: int,
    max_params: int | None,
    max_latency_ms: float | None,
    process_group: ProcessGroup | None = None,
) -> None:
    """Check a classifier before its first epoch.

    Args:
        process_group: the workers that train it together. The first one measures for all: two that measured
            for themselves could decide differently, and the one that goes on would wait for the other.

    Raises:
        OutsideLimits: it has more parameters, or takes longer for one image.
    """
    if max_params is not None:
        params, _ = classifier.num_parameters()
        _check(params, max_params, f"{params:,} parameters, --max-params is {max_params:,}")
    if max_latency_ms is not None:
        latency = (process_group or ProcessGroup()).decide(
            lambda: measure_latency_ms(classifier, image_size=image_size)
        )
        _check(latency, max_latency_ms, f"{latency:.1f} ms an image, --max-latency-ms is {max_latency_ms:g}")


def measure_latency_ms(classifier: Classifier, *, image_size: int) -> float:
    """Latency of one image in ms: the minimum of 10 runs, because other processes can only slow it down."""
    device = next(classifier.parameters()).device
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    was_training = classifier.training
    classifier.eval()
    fastest = float("inf")
    with torch.inference_mode():
        for repeat in range(WARM_UPS + REPEATS):
            began = time.perf_counter()
            classifier(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= WARM_UPS:
                fastest = min(fastest, time.perf_counter() - began)
    classifier.train(was_training)
    return 1000 * fastest


def _check(value: float, limit: float, reason: str) -> None:
    if value > limit:
        raise OutsideLimits(reason, value / limit - 1)
