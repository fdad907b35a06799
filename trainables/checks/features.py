"""Computes a frozen backbone's features of every image, by which labels and outliers are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.decoding import Fit
from contract.weights_source import WeightsSource
from trainables.activations.cache import ActivationCache, ActivationKey
from trainables.activations.inputs import describe_arithmetic, extraction_batch
from trainables.activations.shared import borrow_backbone
from trainables.data.augmentation import evaluation_view
from trainables.device.memory import FittingSize
from trainables.images.store import Images
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.weights import AUTO, fetch_weights, locate_weights

BACKBONE = "lite0"
"""Its weights ship with the installation."""

Progress = Callable[[int, int], None]


def compute_features(
    images: Images,
    rows: Sequence[int] | NDArray[np.int64],
    *,
    image_size: int,
    fit: Fit,
    backbone: str = BACKBONE,
    weights: str | Path = AUTO,
    device: str = "cpu",
    progress: Progress | None = None,
    cache: ActivationCache | None = None,
    digests: Sequence[str] = (),
) -> NDArray[np.float32]:
    """Pooled features [len(rows), D] of rows of an image store, in the view of evaluation.

    Args:
        image_size: side of the view in pixels; the store was built for it.
        progress: called with (images done, images in all).
        cache: keeps the features for the next check, under the rows' content `digests`.

    Raises:
        ValueError: there are no such weights, or the backbone cannot take this size.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    source = fetch_weights(locate_weights(find_backbone(backbone), weights))
    network = _make_network(source, backbone, image_size, torch.device(device))
    fitting, at_once = FittingSize(), extraction_batch(torch.device(device))

    def features_of(positions: NDArray[np.int64]) -> Tensor:
        stored = np.ascontiguousarray(images[wanted[positions]])
        view = evaluation_view(torch.from_numpy(stored).to(device), size=image_size, fit=fit)
        return network.prefix_features(view).float().cpu()

    def compute_rows(positions: NDArray[np.int64]) -> NDArray[np.float32]:
        features: NDArray[np.float32] = fitting.compute(features_of, positions).numpy()
        return features

    read: Callable[[NDArray[np.int64]], NDArray[Any]] = compute_rows
    if cache is not None and digests:
        key = ActivationKey(
            data=hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32],
            backbone=find_backbone(backbone).key,
            weights=source.identity,
            depth=0,
            image_size=image_size,
            fit=fit,
            policy="none",
            epoch=0,
            view_seed=0,
            computed_by=describe_arithmetic(torch.device(device).type),
            dtype="float32",
        )
        read = cache.fetch(
            key,
            num_rows=len(wanted),
            row_shape=compute_rows(np.zeros(1, np.int64)).shape[1:] if len(wanted) else (0,),
            compute=lambda start, stop: compute_rows(np.arange(start, stop)),
            compute_rows=compute_rows,
            chunk_rows=at_once,
        ).rows
    parts = []
    for start in range(0, len(wanted), at_once):
        stop = min(len(wanted), start + at_once)
        parts.append(read(np.arange(start, stop)))
        if progress:
            progress(stop, len(wanted))
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)


def _make_network(source: WeightsSource, backbone: str, image_size: int, device: torch.device) -> Classifier:
    shared = borrow_backbone(
        find_backbone(backbone), weights=source, depth=0, image_size=image_size, device=device
    )
    return Classifier(shared, nn.Identity(), depth=0).to(device).eval()
