"""The user's limits on a classifier's size and speed; only a worker can tell what one comes to."""

from __future__ import annotations

import time

import torch

from trainables.model.classifier import Classifier
from trainables.training.process_group import Team

WARM_UPS = 3
REPEATS = 10


class OutsideLimits(Exception):
    """The configuration is not one the user would take, however well it does."""

    def __init__(self, reason: str, excess: float) -> None:
        super().__init__(reason, excess)
        self.excess = excess
        """How far beyond the limit, as a share of it."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_limits(
    classifier: Classifier,
    *,
    image_size: int,
    max_params: int | None,
    max_latency_ms: float | None,
    team: Team | None = None,
) -> None:
    """Check a classifier before its first epoch.

    Args:
        team: the workers that train it together; the first one measures for all, since two that measured
            for themselves could decide differently, and the one that goes on would wait for the other.

    Raises:
        OutsideLimits: it has more parameters, or takes longer for one image.
    """
    if max_params is not None:
        params, _ = classifier.num_parameters()
        _check(params, max_params, f"{params:,} parameters, --max-params is {max_params:,}")
    if max_latency_ms is not None:
        latency = (team or Team()).decide(lambda: measure_latency_ms(classifier, image_size=image_size))
        _check(latency, max_latency_ms, f"{latency:.1f} ms an image, --max-latency-ms is {max_latency_ms:g}")


def measure_latency_ms(classifier: Classifier, *, image_size: int) -> float:
    """Of one image on the classifier's device: the fastest of several: others beside it only add."""
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
