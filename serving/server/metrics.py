"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters of requests, images and batches, by model."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "serving_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "serving_request_seconds",
            "Seconds from a request's headers to its answer",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._images = Counter(
            "serving_images", "Images by model and outcome", ["model", "outcome"], registry=self._registry
        )
        self._batches = Histogram(
            "serving_batch_images",
            "Images of a batch that was computed",
            ["model"],
            buckets=BATCH_SIZES,
            registry=self._registry,
        )
        self._repeats = Counter(
            "serving_repeats", "Calls repeated since a replica died", ["model"], registry=self._registry
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; `path` is the route, not what a stranger wrote, so that few are kept."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_images(self, model: str, *, answered: int, refused: int) -> None:
        self._images.labels(model, "answered").inc(answered)
        self._images.labels(model, "refused").inc(refused)

    def count_batches(self, model: str, sizes: Iterable[int]) -> None:
        for size in sizes:
            self._batches.labels(model).observe(size)

    def count_repeat(self, model: str) -> None:
        self._repeats.labels(model).inc()

    def as_text(self) -> bytes:
        """Return all counters in Prometheus' format."""
        found: bytes = generate_latest(self._registry)
        return found
