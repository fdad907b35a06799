"""What an accelerator computes, against the same in float32, alone, uncached, uncompiled and exported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.answer import Combination, MemberRef
from contract.messages import LeasedTrial, Report, StudySettings
from contract.model_layout import ModelPaths
from tests.gpu.conftest import Measure
from tests.gpu.trial_process import run_trials
from tests.lone_trial import start_trials
from trainables import lease as lease_module
from trainables.activations.cost_model import CostModel
from trainables.activations.shared import drop_backbones
from trainables.export.program import make_checked_program
from trainables.lease import LeasedRun
from trainables.run import TrialRun
from trainables.training.checkpoints import load_state
from trainables.training.loop import compute_logits

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
CONFIG: dict[str, Any] = {"backbone": "lite0", "max_epochs": 2, "batch_size": 8, "optimizer": "sgd"}
CONFIG |= {"learning_rate": 1e-2, "frozen_batch_norm": True}
HEAD: dict[str, Any] = {"regime": "linear_probe", "unfreeze_depth": 0}
BFLOAT16_SHARE = 0.02
"""bfloat16 keeps 8 bits, 0.4 % of a number; a few layers of it make no more than some times as much."""

IMAGE_BYTES = 512 * 2**20
"""What the trial that is short of memory takes for each image beside its own needs."""


def make_lease(number: int, *, attempt: int = 1, **config: Any) -> LeasedTrial:
    return LeasedTrial(trial=number, attempt=attempt, config=CONFIG | config, done_epochs=0)


def weights_of(settings: StudySettings, number: int) -> dict[str, Tensor]:
    state = load_state(settings.trial_paths(number).weights)
    assert state is not None
    return dict(state["trained"])


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of a weight, as a share of the largest weight of its tensor."""
    assert first.keys() == second.keys()
    shares = [
        float((first[name] - second[name]).abs().max() / first[name].abs().max().clamp_min(1e-3))
        for name in first
        if first[name].is_floating_point()
    ]
    return max(shares)


def losses(reports: list[Report]) -> list[float]:
    return [report.metrics[name] for report in reports for name in ("train_loss", "val_loss")]


def test_mixed_precision_computes_the_gradients_of_float32(
    settings: StudySettings, device: str, measure: Measure
) -> None:
    run = TrialRun(make_lease(0, unfreeze_depth="all", dropout=0.0), settings)
    run.classifier.train()
    _, batches = run._draw_batches(1)
    seen = [(inputs.to(device), targets.to(device)) for inputs, targets in batches]
    parameters = list(run.classifier.head.parameters())
    parameters += list(run.classifier.trainable_backbone_parameters().values())

    def gradients(logits_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        loss = sum(nn.functional.cross_entropy(logits_of(inputs), targets) for inputs, targets in seen)
        assert isinstance(loss, Tensor)
        flat = [value.flatten() for value in torch.autograd.grad(loss, parameters)]
        return loss.detach() / len(seen), torch.cat(flat)

    def mixed(inputs: Tensor) -> Tensor:
        if device == "cuda":
            return compute_logits(run.classifier, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # on a CPU the project itself computes in float32
            return run.classifier(inputs).float()

    exact_loss, exact = gradients(run.classifier)
    mixed_loss, rounded = gradients(mixed)

    off = float((mixed_loss - exact_loss).abs() / exact_loss)
    cosine = float(nn.functional.cosine_similarity(exact, rounded, dim=0))
    assert 0 < off < BFLOAT16_SHARE
    assert cosine > 0.98  # each number is rounded by itself, so the direction is nearly the same
    measure(f"loss off by {off:.1e} of itself, cosine of the gradients {cosine:.4f}")


def test_heads_in_lockstep_become_what_each_becomes_alone(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    rates = (1e-2, 3e-3, 1e-3)

    def heads(attempt: int) -> list[LeasedTrial]:
        # A head's seed follows from its trial's number: both rounds use the same numbers.
        return [
            replace(make_lease(number, attempt=attempt, **HEAD, learning_rate=rate), until_epoch=2)
            for number, rate in enumerate(rates)
        ]

    monkeypatch.setattr(lease_module, "trains_in_lockstep", lambda _: False)
    for lease in heads(1):
        run_trials(settings, lease)
    alone = [weights_of(settings, number) for number in range(3)]
    monkeypatch.setattr(lease_module, "trains_in_lockstep", lambda _: True)
    sizes: list[int] = []
    train_heads = lease_module.train_heads
    monkeypatch.setattr(
        lease_module, "train_heads", lambda heads: sizes.append(len(heads)) or train_heads(heads)
    )
    run_trials(settings, *heads(2))

    found = max(difference(alone[number], weights_of(settings, number)) for number in range(3))
    assert sizes == [3, 3]
    assert found < (BFLOAT16_SHARE if settings.use_gpu else 1e-4)
    measure(f"largest difference of a weight {found:.1e} of the largest")


@contextmanager
def little_memory(run: TrialRun, *, fits: int) -> Iterator[list[int]]:
    """Room for so many images at once, each with IMAGE_BYTES on top; yields how many did not fit."""
    on_gpu, refused = run.device.type == "cuda", []

    def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        count = len(inputs[0])
        try:
            if on_gpu:
                torch.empty(count * IMAGE_BYTES, dtype=torch.uint8, device="cuda")
            elif count > fits:
                torch.empty(2**50)
        except RuntimeError:
            refused.append(count)
            raise

    if on_gpu:
        torch.cuda.empty_cache()
        limit = torch.cuda.memory_reserved() + (fits + 2) * IMAGE_BYTES
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    hook = run.classifier.head.register_forward_pre_hook(take)
    try:
        yield refused
    finally:
        hook.remove()
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_makes_smaller_parts_of_the_same_update(
    settings: StudySettings, measure: Measure
) -> None:
    """The same parts are asked for beforehand; what is left is the order in which a GPU's threads add."""
    drop_backbones()
    config: dict[str, Any] = {"batch_size": 16, "dropout": 0.3}
    asked = TrialRun(make_lease(7, **config, micro_batch_size=4), settings)
    while not asked.finished:
        asked.run_epoch()
    short = TrialRun(make_lease(7, **config), settings)
    with little_memory(short, fits=4) as refused:
        while not short.finished:
            short.run_epoch()

    assert refused[:2] == [16, 8]
    assert short.updates is not None
    assert short.updates.micro_batch.size == 4
    assert asked.kept.trained and short.kept.trained
    found = difference(
        {name: value.cpu() for name, value in asked.classifier.trained_state().items()},
        {name: value.cpu() for name, value in short.classifier.trained_state().items()},
    )
    assert found < (BFLOAT16_SHARE if settings.use_gpu else 1e-6)
    measure(f"16 and 8 images did not fit, 4 did; largest difference of a weight {found:.1e} of the largest")


def test_a_cached_trial_computes_what_an_uncached_one_does(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    """The frozen part sees batches of other sizes; its output is rounded alike."""
    monkeypatch.setattr(CostModel, "worth_caching", lambda *_, **__: True)
    caches: list[bool] = []
    begin = LeasedRun._begin

    def note(run: LeasedRun) -> Any:
        reports = begin(run)
        assert run.run is not None
        caches.append(run.run.inputs["train"].cache is not None)
        return reports

    monkeypatch.setattr(LeasedRun, "_begin", note)
    cached = run_trials(settings, make_lease(8, dropout=0.0))
    assert all(caches)
    caches.clear()
    plain = run_trials(replace(settings, cache_gigabytes=0.0), make_lease(8, attempt=2, dropout=0.0))

    assert not any(caches)
    found = max(abs(a - b) for a, b in zip(losses(cached), losses(plain), strict=True))
    assert found < (BFLOAT16_SHARE if settings.use_gpu else 1e-3)
    measure(f"largest difference of a loss {found:.1e}")


def test_an_export_of_weights_trained_here_predicts_what_the_trial_did(
    settings: StudySettings, tmp_path: Path, measure: Measure
) -> None:
    """`make_checked_program` itself compares on validation images and refuses what is further off."""
    leased = make_lease(9)
    run_trials(settings, leased)
    model = ModelPaths(tmp_path / "model")

    ref = MemberRef("trial", 9)
    program = make_checked_program(Combination.single(ref), {ref: leased.config}, settings)
    program.write(settings, target=model, about={})

    size = model.program.stat().st_size
    measure(f"all 10 validation images within the export's tolerance; {size / 2**20:.1f} MiB")


def test_a_compiled_trial_computes_what_an_uncompiled_one_does(
    settings: StudySettings, caplog: pytest.LogCaptureFixture, measure: Measure
) -> None:
    if not settings.use_gpu:
        pytest.skip("on a CPU the compiler takes half a minute, and a unit test does it")
    plain = run_trials(settings, make_lease(10, dropout=0.0))
    with caplog.at_level(logging.WARNING):
        fast = run_trials(replace(settings, compile=True), make_lease(10, attempt=2, dropout=0.0))

    assert not [record for record in caplog.records if "--compile" in record.getMessage()]
    found = max(abs(a - b) for a, b in zip(losses(plain), losses(fast), strict=True))
    assert found < 2 * BFLOAT16_SHARE  # the compiler keeps more digits between fused operations
    measure(f"largest difference of a loss {found:.1e}")


def test_a_lease_runs_on_the_device_that_is_asked_for(settings: StudySettings, device: str) -> None:
    [run] = start_trials(settings, make_lease(11))
    run.begin()
    assert run.run is not None
    assert next(run.run.classifier.parameters()).device.type == device
