"""Where a trial's batches come from: its view of a part of the data, and what of it is worth caching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.activations.backbone_pool import borrow_ladder
from trainables.activations.inputs import Inputs
from trainables.activations.study_data import open_cache, open_cost_model
from trainables.assembly import make_view
from trainables.model.frozen_prefixes import Ladder

if TYPE_CHECKING:
    from trainables.run import TrialRun


def make_inputs(run: TrialRun, part: str) -> Inputs:
    """Of "train" or "val", for the phase that the trial is in."""
    config, settings, is_train = run.config, run.settings, part == "train"
    view = make_view(config, settings, fit=run.backbone.fit, is_train=is_train)
    mixed = is_train and config.mixup_alpha > 0  # mixed images have no activations of their own
    readings = 1 if view.is_random else run.phase.num_epochs
    others = settings.num_trials - 1
    return Inputs(
        run.parts[part],
        view,
        run.classifier,
        trainable=run.trainable if is_train else run.validatable,
        weights=run.weights.identity,
        backbone=f"{run.backbone.key} {config.head_pooling}",
        cache=None if mixed else open_cache(settings.cache_directory, settings.cache_gigabytes),
        costs=open_cost_model(settings.cache_directory),
        threads=settings.threads,
        uses=readings * (1 + others * settings.agreement),  # by its own epochs, and by trials like it
        dtype=settings.activation_dtype,
        ladder=_borrow_ladder(run),
        chance=1 - (1 - settings.agreement) ** others,
    )


def _borrow_ladder(run: TrialRun) -> Ladder | None:
    """Of the study's depths, where there are several."""
    if len(run.settings.shared_depths) < 2:
        return None
    return borrow_ladder(
        run.backbone,
        weights=run.weights,
        depths=run.settings.shared_depths,
        image_size=run.settings.image_size,
        device=run.device,
        pooling=run.config.head_pooling,
    )
