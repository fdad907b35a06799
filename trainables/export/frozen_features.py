"""Gives the features of a study's frozen backbone for its training and validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contract.decoding import Fit
from contract.messages import StudySettings
from contract.trial_config import make_trial_config
from trainables.activations.inputs import Inputs
from trainables.activations.shared import borrow_backbone, load_splits, open_cache, open_cost_model
from trainables.images.split_view import ViewSettings
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.weights import choose_weights
from trainables.training.loop import cut_evaluation


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenBackbone:
    """The pretrained backbone of a configuration, nothing of it trained."""

    classifier: Classifier
    """Without a head, on the device."""

    key: str
    weights: str
    """Identity of its weights."""

    fit: Fit

    @classmethod
    def of(cls, config: Mapping[str, Any], settings: StudySettings, *, device: torch.device) -> Self:
        """Load it, or take the one that is loaded."""
        backbone = find_backbone(make_trial_config(config).backbone)
        weights = choose_weights(
            backbone, settings.backbone_weights, settings.weights, seed=settings.seed, pretrained=True
        )
        shared = borrow_backbone(
            backbone, weights=weights, depth=0, image_size=settings.image_size, device=device
        )
        return cls(
            classifier=Classifier(shared, nn.Identity(), depth=0).to(device).eval(),
            key=backbone.key,
            weights=weights.identity,
            fit=settings.fit or backbone.fit,
        )


def frozen_features(
    config: Mapping[str, Any],
    settings: StudySettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Compute the pooled features of a configuration's pretrained backbone, nothing of it trained.

    They are read from the activation cache where a trial with a frozen backbone has left them, and left there
    for trials where none has.

    Args:
        progress: called with (images done, images in all).

    Returns:
        For "train" and "val": ids of the images as in data.csv, [N], and in their order features [N, D].
    """
    device = torch.device("cuda" if settings.use_gpu else "cpu")
    frozen = FrozenBackbone.of(config, settings, device=device)
    found = {}
    splits = load_splits(settings, frozen.fit, device)
    total, done = sum(len(split) for split in splits.values()), 0
    for name, split in splits.items():
        inputs = Inputs(
            split,
            ViewSettings(policy="none", image_size=settings.image_size, fit=frozen.fit, seed=settings.seed),
            frozen.classifier,
            trainable=nn.Identity(),
            weights=frozen.weights,
            backbone=f"{frozen.key} average",
            cache=open_cache(settings.cache_directory, settings.cache_gigabytes),
            costs=open_cost_model(settings.cache_directory),
            threads=settings.threads,
            uses=2.0,  # by later runs of the answer, too
            dtype=settings.activation_dtype,
        )
        parts = []
        for batch, _ in inputs.batches(cut_evaluation(np.arange(len(split))), epoch=0):
            parts.append(inputs.features(batch).flatten(1).float().cpu().numpy())
            done += len(parts[-1])
            progress(done, total)
        found[name] = (split.ids, np.concatenate(parts).astype(np.float32))
    return found
