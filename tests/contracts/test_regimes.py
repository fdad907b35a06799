"""Every regime: phases that cover the epochs, and settings it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from contract.trial_config import TrialConfig, make_trial_config
from trainables.training.regimes import load_regime, names

STAGES = 8


def proposal(**changes: Any) -> dict[str, Any]:
    return {"backbone": "lite0", "max_epochs": 7, "frozen_epochs": 3, **changes}


def valid_config(regime: str) -> TrialConfig:
    return make_trial_config(proposal(regime=regime, **load_regime(regime).fixed))


@pytest.mark.parametrize("name", names())
def test_phases_follow_one_another_and_cover_all_epochs(name: str) -> None:
    regime, config = load_regime(name), valid_config(name)

    phases = regime.phases(config, STAGES)

    assert phases[0].first_epoch == 1
    assert phases[-1].last_epoch == (1 if regime.uses_neighbours else config.max_epochs)
    assert all(a.last_epoch + 1 == b.first_epoch for a, b in pairwise(phases))
    assert all(phase.num_epochs > 0 and phase.learning_rate_factor > 0 for phase in phases)


@pytest.mark.parametrize("name", names())
def test_a_value_that_a_regime_fixes_is_refused_by_name_when_it_differs(name: str) -> None:
    regime, config = load_regime(name), valid_config(name)
    other: dict[str, Any] = {"unfreeze_depth": 3, "optimizer": "adam", "schedule": "cosine", "mix": "mixup"}

    for field, value in regime.fixed.items():
        wrong = other.get(
            field, (not value) if isinstance(value, bool) else 0.5 if isinstance(value, float) else 1
        )
        with pytest.raises(ValueError, match=field):
            regime.check(replace(config, **{field: wrong}))


@pytest.mark.parametrize(
    "name", [name for name in names() if "unfreeze_depth" not in load_regime(name).fixed]
)
def test_more_stages_than_the_backbone_has_are_refused_with_both_numbers(name: str) -> None:
    regime, config = load_regime(name), replace(valid_config(name), unfreeze_depth=9)

    with pytest.raises(ValueError, match=r"9 .*8 stages"):
        regime.phases(config, STAGES)


def test_two_phase_unfreezes_at_a_lower_rate() -> None:
    config = replace(valid_config("two_phase"), unfreeze_depth=2, second_phase_learning_rate_factor=0.2)

    first, second = load_regime("two_phase").phases(config, STAGES)

    assert (first.depth, first.num_epochs, first.learning_rate_factor) == (0, 3, 1.0)
    assert (second.depth, second.num_epochs, second.learning_rate_factor) == (2, 4, 0.2)


@pytest.mark.parametrize("changes", [{"frozen_epochs": 0}, {"frozen_epochs": 7}, {"unfreeze_depth": 0}])
def test_two_phase_refuses_to_have_one_phase(changes: dict[str, Any]) -> None:
    config = replace(valid_config("two_phase"), **changes)

    with pytest.raises(ValueError, match="two_phase"):
        load_regime("two_phase").check(config)


@pytest.mark.parametrize(
    ("epochs", "depth", "expected"),
    [
        (7, 2, [(1, 0), (2, 1), (3, 2)]),
        (7, "all", [(1, 0), (2, 1), (3, 3), (4, 4), (5, 5), (6, 7), (7, 8)]),
        (2, 4, [(1, 0), (2, 4)]),
        (1, 4, [(1, 4)]),
    ],
)
def test_gradual_unfreezes_from_the_top_until_all_train(
    epochs: int, depth: int | str, expected: list[tuple[int, int]]
) -> None:
    config = replace(valid_config("gradual"), max_epochs=epochs, unfreeze_depth=depth)

    phases = load_regime("gradual").phases(config, STAGES)

    assert [(phase.first_epoch, phase.depth) for phase in phases] == expected


@pytest.mark.parametrize("depth", [0, "layers:5", "from:blocks.4"])
def test_gradual_refuses_a_depth_that_it_cannot_count_up_to(depth: int | str) -> None:
    config = replace(valid_config("gradual"), unfreeze_depth=depth)

    with pytest.raises(ValueError, match="gradual"):
        load_regime("gradual").check(config)


def test_hyperrule_leaves_head_decay_and_dropout_to_the_search() -> None:
    config = replace(valid_config("bit"), head_width=256, weight_decay=1e-4, dropout=0.2, label_smoothing=0.1)

    load_regime("bit").check(config)


def test_only_scratch_does_without_pretrained_weights() -> None:
    untrained = [name for name in names() if not load_regime(name).pretrained]

    assert untrained == ["scratch"]


def test_an_unknown_regime_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="linear_probe"):
        load_regime("linear_prob")
