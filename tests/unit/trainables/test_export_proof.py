"""An export is written only if it predicts what the trial predicted for the validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contract.answer import Combination, MemberRef
from contract.model_layout import ModelPaths
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.export.parity import compare
from trainables.export.program import make_checked_program
from trainables.model.backbones import find_backbone
from trainables.model.networks import make_backbone
from trainables.model.weights import locate_weights

ROW = find_backbone("resnet18")


def rows(*probabilities: float) -> np.ndarray:
    return np.array([[one, 1 - one] for one in probabilities], dtype=np.float32)


def test_equal_predictions_and_rounding_are_accepted() -> None:
    compare(rows(0.9, 0.2, 0.501), rows(0.905, 0.195, 0.499), tolerance=0.02, uses_neighbours=False)


@pytest.mark.parametrize("found", [0.8, 0.1])
def test_a_larger_difference_is_refused_in_one_line_with_both_figures(found: float) -> None:
    with pytest.raises(ValueError, match=r"[01] of 2 validation images .* differs by 0\.[18]00") as caught:
        compare(rows(0.2, found), rows(0.2, 0.9), tolerance=0.02, uses_neighbours=False)

    assert "\n" not in str(caught.value)


def test_nearest_neighbours_are_judged_by_their_labels() -> None:
    stored = rows(*[0.9] * 20)
    one_other, many_others = rows(0.1, *[0.7] * 19), rows(*[0.1] * 3, *[0.9] * 17)

    compare(one_other, stored, tolerance=0.02, uses_neighbours=True)
    with pytest.raises(ValueError, match="3 of 20"):
        compare(many_others, stored, tolerance=0.02, uses_neighbours=True)


@pytest.mark.slow
def test_an_export_on_other_weights_than_the_trial_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    sources = []
    for seed in (1, 2):
        save_file(make_backbone(ROW, seed=seed).state_dict(), tmp_path / f"{seed}.safetensors")
        sources.append(locate_weights(ROW, tmp_path / f"{seed}.safetensors"))
    settings = make_settings(tmp_path, fits=("crop",), backbone_weights=(sources[0],))
    lease = make_lease(backbone="resnet18", unfreeze_depth=0, learning_rate=0.1, max_epochs=4)
    (leased,) = start_trials(settings, lease)
    while not leased.finished:
        reports = leased.step()
    assert leased.run is not None and reports[-1].outcome == "complete", reports[-1].traceback
    ref, right = MemberRef("trial", lease.trial), ModelPaths(tmp_path / "right")

    with pytest.raises(ValueError, match="does not predict what the trial did"):
        make_checked_program(
            Combination.single(ref), {ref: lease.config}, replace(settings, backbone_weights=(sources[1],))
        )
    make_checked_program(Combination.single(ref), {ref: lease.config}, settings).write(
        settings, target=right, about={}
    )

    program = torch.export.load(right.program).module()
    assert program(torch.rand(1, 3, 32, 32)).shape == (1, 3)
