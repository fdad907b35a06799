"""Unpacks a trial's configuration into the objects that its run is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from contract.decoding import Fit
from contract.finals import FinalTraining
from contract.messages import StudySettings
from contract.trial_config import TrialConfig
from trainables.data.mixing import Mix
from trainables.data.views import draw_uniform
from trainables.images.split_view import ViewSettings
from trainables.model.classifier import Classifier
from trainables.model.networks import undecayed_names
from trainables.model.stages import stage_levels
from trainables.training.optimizers import WeightAverage, make_optimizer, make_parameter_groups
from trainables.training.regimes import Phase


def make_phase_optimizer(config: TrialConfig, classifier: Classifier, phase: Phase) -> torch.optim.Optimizer:
    """Make the optimizer of what trains in a phase."""
    groups = make_parameter_groups(
        head=dict(classifier.head.named_parameters()),
        backbone=classifier.trainable_backbone_parameters(),
        learning_rate=config.learning_rate * phase.learning_rate_factor,
        backbone_learning_rate_factor=config.backbone_learning_rate_factor,
        weight_decay=config.weight_decay,
        head_l2=config.head_l2,
        layer_decay=config.layer_decay,
        levels=stage_levels(classifier.backbone),
        undecayed=undecayed_names(classifier.backbone),
    )
    return make_optimizer(config.optimizer, groups, momentum=config.momentum, nesterov=config.nesterov)


def make_average(
    config: TrialConfig, classifier: Classifier, optimizer: torch.optim.Optimizer
) -> WeightAverage | None:
    """Average the trainable weights after every step of the optimizer; None where `ema_decay` is 0."""
    if not config.ema_decay:
        return None
    average = WeightAverage(classifier.trained_state(), decay=config.ema_decay)
    optimizer.register_step_post_hook(lambda *_: average.update())
    return average


def make_view(
    config: TrialConfig,
    settings: StudySettings,
    *,
    fit: Fit,
    is_train: bool,
    final: FinalTraining | None = None,
) -> ViewSettings:
    """Settings of the trial's views; validation images are neither augmented nor mixed.

    Trials of a study see the same views. One that is repeated sees others: they are part of its luck.
    """
    plain = ViewSettings(
        policy="none",
        image_size=settings.image_size,
        fit=fit,
        seed=settings.seed if final is None else settings.seed + final.draw - final.source,
        is_blank=config.zero_inputs,
    )
    if not is_train:
        return plain
    mix = Mix(
        kind=config.mix,
        alpha=config.mix_alpha,
        mixed_share=config.mix_share,
        smallest_side=config.cutmix_min,
        largest_side=config.cutmix_max,
        within_class=config.mix_within_class,
    )
    return replace(plain, policy=config.policy, minority_policy=config.minority_policy, mix=mix)


def choose_validated(view_ids: NDArray[np.int64], *, limit: int, seed: int) -> NDArray[np.int64]:
    """Choose positions of validation images: all, or `limit` of them, the same in every trial."""
    if not 0 < limit < len(view_ids):
        return np.arange(len(view_ids))
    draws = draw_uniform(seed, "validation", 0, view_ids, 1)[:, 0]
    return np.sort(np.argsort(draws, kind="stable")[:limit])
