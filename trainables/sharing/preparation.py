"""Before a study: every image is decoded once, the unreadable ones are named, and the rest is split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from trainables.data.datasets import ImageListing
from trainables.data.manifest import Manifest, make_manifest
from trainables.data.views import Fit, storage_size
from trainables.sharing.image_store import ImageFact, Progress, open_or_build

NAMED = 5
"""Unreadable images that a message names; the others are counted."""


def prepare_images(
    listing: ImageListing,
    *,
    fits: Iterable[Fit],
    image_size: int,
    cache_dir: Path,
    budget_gb: float,
    seed: int,
    refuse_bad: bool,
    progress: Progress,
) -> tuple[Manifest, str]:
    """The images of the study, and a line about those left out (empty if there are none).

    Args:
        fits: how the backbones want images made square; a store is built for each.

    Raises:
        ValueError: images cannot be read and `refuse_bad`, or what is left cannot be split.
    """
    stores = [
        open_or_build(
            listing.paths,
            storage_size=storage_size(image_size, fit),
            fit=fit,
            cache_dir=cache_dir,
            budget_gb=budget_gb,
            progress=progress,
        )
        for fit in dict.fromkeys(fits)
    ]
    line = describe_unreadable(listing.paths, stores[0].facts)
    if line and refuse_bad:
        raise ValueError(f"{line}. Remove or repair them, or leave them out with --bad-images skip")
    manifest = make_manifest(listing, stores[0].digests, seed=seed, keep=stores[0].readable)
    return manifest, line


def describe_unreadable(paths: Sequence[Path], facts: Sequence[ImageFact]) -> str:
    """How many images cannot be read, which, and why."""
    bad = [f"{path} ({fact.reason})" for path, fact in zip(paths, facts, strict=True) if not fact.ok]
    if not bad:
        return ""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{len(bad)} of {len(facts)} images cannot be read: {'; '.join(bad[:NAMED])}{more}"
