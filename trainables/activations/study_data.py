"""What the trials of a study share in one process: images, labels, and the activation cache."""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from contract.messages import StudySettings
from trainables.activations.cache import ActivationCache
from trainables.activations.cost_model import CostModel
from trainables.data.datasets import copy_missing
from trainables.data.manifest import read_manifest
from trainables.data.views import Fit, storage_size
from trainables.device.accelerator import GIGABYTE
from trainables.images.cache_room import room_for
from trainables.images.split_view import Part, view_id
from trainables.images.store import open_or_build


@lru_cache(maxsize=4)
def load_parts(settings: StudySettings, fit: Fit, device: torch.device) -> dict[str, Part]:
    """The training and the validation images. The test part's pixels are never looked at.

    On a node that has no image store yet, or no copies of a bucket's images, the first worker makes them and
    the others wait.
    """
    cache_dir = Path(settings.cache_directory)
    manifest = read_manifest(Path(settings.study_directory) / "data.csv", settings.classes)
    if settings.data_source:
        copy_missing(
            settings.data_source,
            manifest.paths,
            cache_dir=cache_dir,
            room_for=partial(room_for, cache_dir=cache_dir, budget_gb=settings.cache_gigabytes),
        )
    store = open_or_build(
        manifest.paths,
        storage_size=storage_size(settings.image_size, fit),
        fit=fit,
        cache_dir=cache_dir,
        budget_gb=settings.cache_gigabytes,
    )
    digests = store.digests
    parts = {}
    for name in ("train", "val"):
        ids = manifest.indices(name)
        content = hashlib.sha256("\n".join(digests[number] for number in ids).encode())
        labels = torch.from_numpy(manifest.labels[ids]).to(device)
        view_ids = np.array([view_id(digests[number]) for number in ids], dtype=np.int64)
        parts[name] = Part(
            store=store,
            ids=ids,
            labels=labels,
            num_classes=len(settings.classes),
            view_ids=view_ids,
            copies=np.zeros_like(view_ids),
            digest=content.hexdigest(),
        )
    return parts


@lru_cache(maxsize=1)
def open_cache(directory: str, gigabytes: float) -> ActivationCache | None:
    """The activation cache of this machine; None without a budget."""
    if gigabytes <= 0:
        return None
    cache_dir = Path(directory)
    return ActivationCache(
        cache_dir / "activations", budget_bytes=int(gigabytes * GIGABYTE), cache_dir=cache_dir
    )


@lru_cache(maxsize=1)
def open_cost_model(directory: str) -> CostModel:
    return CostModel(Path(directory) / "activations")
