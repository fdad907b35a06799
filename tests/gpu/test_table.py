"""The ways of computing that `python -m benchmarks gpu` compares give the same numbers; it runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from benchmarks import gpu
from benchmarks.accelerator.arithmetic import Arithmetic, computing, lay_out, variants
from benchmarks.accelerator.study import caching, epoch_batches, start_trial
from contract.messages import StudySettings
from tests.gpu.conftest import Measure
from trainables.activations import inputs
from trainables.activations.shared import drop_backbones

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
CONFIG: dict[str, Any] = {"backbone": "lite0", "max_epochs": 2, "batch_size": 8, "policy": "light"}
TINY = ["--quick", "--seconds", "0.05", "--images", "32", "--image-size", "32", "--batch-size", "8"]
FIRST = Arithmetic(precision="float32")
"""What the others are compared with."""


@pytest.mark.parametrize("on_activations", [True, False])
def test_batches_made_one_ahead_are_those_made_at_use(
    settings: StudySettings, on_activations: bool, measure: Measure
) -> None:
    """A second stream makes them: it could read what is not yet there, or see its memory given away."""
    with caching(on_activations):
        run = start_trial(settings, {**CONFIG, "unfreeze_depth": 2})
    list(epoch_batches(run))  # fills the cache

    def take() -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in epoch_batches(run):
            busy = images.float().flatten(1)
            for _ in range(20):  # so that the next batch is made while this one is in use
                busy = busy * 0.5
            yield images.clone(), targets.clone()

    ahead = list(take())
    with patch.object(inputs, "one_ahead", lambda batches, _: batches):
        at_use = list(take())

    assert len(ahead) == len(at_use) == 3
    for one, other in zip(ahead, at_use, strict=True):
        assert all(torch.equal(mine, yours) for mine, yours in zip(one, other, strict=True))
    measure(f"{len(ahead)} batches of {'activations' if on_activations else 'images'} equal to the last bit")


def test_features_agree_in_every_arithmetic_and_number_of_images_at_once(
    settings: StudySettings, device: str, measure: Measure
) -> None:
    """bfloat16 keeps 8 bits and TF32 10; layouts and batch sizes change the order of summation alone."""

    def features(arithmetic: Arithmetic, at_once: int) -> Tensor:
        with computing(arithmetic), caching(False):
            run = start_trial(settings, {**CONFIG, "regime": "linear_probe", "unfreeze_depth": 0})
            lay_out(run.classifier, arithmetic)
            run.classifier.eval()
            (images, *_) = (inputs for inputs, _ in epoch_batches(run))
            found = torch.cat([run.classifier.prefix_features(part) for part in images.split(at_once)])
        drop_backbones()
        return found

    exact = features(FIRST, 8)
    off = {}
    for arithmetic in (one for one in variants(torch.device(device)) if not one.compiled):
        for at_once in (8, 3):
            found = features(arithmetic, at_once)
            off[f"{arithmetic.name}, {at_once} at once"] = float((found - exact).norm() / exact.norm())

    assert all(value < (0.05 if name.startswith("bfloat16") else 0.01) for name, value in off.items()), off
    measure("; ".join(f"{name} {value:.0e}" for name, value in off.items()))


def test_the_table_is_made_on_this_device(
    device: str, capsys: pytest.CaptureFixture[str], measure: Measure
) -> None:
    """A unit test tries all parts on a CPU."""
    parts = gpu.PARTS if device == "cuda" else ("limits", "frozen")

    assert gpu.main(["--device", device, *TINY, "--parts", *parts]) == 0

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = [row for row in found["rows"] if row["samples"]]
    assert {row["part"] for row in rates} >= {"limits", "frozen passes"}
    measure(f"{len(rates)} rates of {found['hardware']['device']}")
