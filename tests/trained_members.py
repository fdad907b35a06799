"""Trains a few tiny trials of one study, whose classifiers tests then combine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from contract.answer import Combination, MemberRef, Pooling, WeightedMember
from contract.messages import StudySettings
from tests.lone_trial import run_alone
from tests.tiny_data import make_lease
from trainables.activations.shared import load_splits
from trainables.export.members import common_fit
from trainables.images.split_view import ViewSettings


def train_members(settings: StudySettings, *configs: Mapping[str, Any]) -> dict[MemberRef, dict[str, Any]]:
    """Train trials 0, 1, … of lite0 with these changes; returns their configurations."""
    leases = [make_lease(number, **config) for number, config in enumerate(configs)]
    for lease in leases:
        run_alone(settings, lease)
    return {MemberRef("trial", lease.trial): dict(lease.config) for lease in leases}


def combine(
    *refs: MemberRef,
    pooling: Pooling = Pooling.PROBABILITIES,
    temperature: float = 1.0,
    weights: tuple[float, ...] = (),
) -> Combination:
    """Combine members, by default with equal weights."""
    shares = weights or (1 / len(refs),) * len(refs)
    members = tuple(WeightedMember(ref=ref, weight=share) for ref, share in zip(refs, shares, strict=True))
    return Combination(members=members, pooling=pooling, temperature=temperature)


def validation_images(settings: StudySettings, configs: Mapping[MemberRef, Mapping[str, Any]]) -> Any:
    """All validation images, float32 [N, 3, S, S], as a trial sees them."""
    import torch

    fit = common_fit(configs, configs, settings)
    split = load_splits(settings, fit, torch.device("cpu"))["val"]
    view = ViewSettings(policy="none", image_size=settings.image_size, fit=fit, seed=settings.seed)
    return view.images(split, np.arange(len(split)), epoch=0, device=torch.device("cpu"))
