"""Settings of a trial that would undo or repeat each other are refused before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from contract.trial_config import TrialConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": "mixup", "mixup_alpha": 0.1}, "mix twice: choose one"),
        ({"class_weights": "balanced", "sampler": "balanced"}, "choose one"),
        ({"class_weights": "effective", "minority_policy": "strong"}, "choose one"),
        ({"sampler": "balanced", "minority_policy": "strong"}, "choose one"),
        ({"mix_share": 1.5}, "mix_share must be in"),
        ({"cutmix_min": 0.6, "cutmix_max": 0.5}, "got 0.6 and 0.5"),
        ({"schedule": "linear"}, "cosine, exponential, plateau, constant, hyperrule, got 'linear'"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw, sgd, rmsprop, adam, got 'lion'"),
        ({"mix": "cutout"}, "none, mixup, cutmix"),
        ({"class_weights": "inverse"}, "none, balanced, effective"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_way_out(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrialConfig(backbone="lite0", **settings)


@pytest.mark.parametrize(
    "settings",
    [{"mix": "cutmix", "class_weights": "balanced"}, {"mixup_alpha": 0.1, "sampler": "balanced"}],
)
def test_mixing_goes_with_every_answer_to_imbalance(settings: dict[str, Any]) -> None:
    assert TrialConfig(backbone="lite0", **settings)
