"""Gives the features of a study's frozen backbone for its training and validation images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contract.messages import StudySettings
from contract.trial_config import make_trial_config
from trainables.activations.inputs import Inputs
from trainables.activations.shared import borrow_backbone, load_splits, open_cache, open_cost_model
from trainables.images.split_view import ViewSettings
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.weights import choose_weights
from trainables.training.loop import cut_evaluation


def frozen_features(
    config: Mapping[str, Any], settings: StudySettings
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Compute the pooled features of a configuration's pretrained backbone, nothing of it trained.

    They are read from the activation cache where a trial with a frozen backbone has left them.

    Returns:
        For "train" and "val": ids of the images as in data.csv, [N], and in their order features [N, D].
    """
    trial = make_trial_config(config)
    backbone = find_backbone(trial.backbone)
    device = torch.device("cuda" if settings.use_gpu else "cpu")
    fit = settings.fit or backbone.fit
    weights = choose_weights(
        backbone, settings.backbone_weights, settings.weights, seed=settings.seed, pretrained=True
    )
    shared = borrow_backbone(
        backbone, weights=weights, depth=0, image_size=settings.image_size, device=device
    )
    classifier = Classifier(shared, nn.Identity(), depth=0).to(device).eval()
    found = {}
    for name, split in load_splits(settings, fit, device).items():
        inputs = Inputs(
            split,
            ViewSettings(policy="none", image_size=settings.image_size, fit=fit, seed=settings.seed),
            classifier,
            trainable=nn.Identity(),
            weights=weights.identity,
            backbone=f"{backbone.key} average",
            cache=open_cache(settings.cache_directory, settings.cache_gigabytes),
            costs=open_cost_model(settings.cache_directory),
            threads=settings.threads,
            uses=2.0,  # by later runs of the answer, too
            dtype=settings.activation_dtype,
        )
        parts = [
            inputs.features(batch).flatten(1).float().cpu().numpy()
            for batch, _ in inputs.batches(cut_evaluation(np.arange(len(split))), epoch=0)
        ]
        found[name] = (split.ids, np.concatenate(parts).astype(np.float32))
    return found
