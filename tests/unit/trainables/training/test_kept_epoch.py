"""A trial leaves the weights of its best epoch behind, whichever phase that epoch was in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.export.program import load_classifier
from trainables.training.early_stopping import Best

pytestmark = pytest.mark.slow


def test_a_trial_whose_best_epoch_was_before_the_unfreezing_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    lease = make_lease(regime="two_phase", unfreeze_depth=1, frozen_epochs=1)
    monkeypatch.setattr(Best, "is_beaten_by", lambda best, value, *, maximize: not best.epoch)
    (leased,) = start_trials(settings, lease)
    while not leased.finished:
        reports = leased.step()
    run = leased.run
    assert run is not None and reports[-1].outcome == "complete", reports[-1].traceback

    classifier = load_classifier(run.paths, lease.config, settings)

    everything = np.arange(len(run.splits["val"]))
    view = run.inputs["val"].view
    images = view.images(run.splits["val"], everything, epoch=0, device=torch.device("cpu"))
    with torch.no_grad():
        log_probabilities = classifier(images).log_softmax(1)
    saved = np.load(run.paths.predictions)["log_probabilities"]
    np.testing.assert_allclose(log_probabilities.numpy(), saved, atol=5e-3)
