"""Heads in lockstep compute what each would alone, whichever others train with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.trial_config import TrialConfig
from trainables.model.heads import make_head
from trainables.training.head_batch import HeadEpoch, lockstep_key, train_heads, trains_in_lockstep
from trainables.training.loop import Diverged, TrainResult, Updates, train_epoch
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.schedules import make_schedule

FEATURES, CLASSES, IMAGES, BATCH = 40, 3, 26, 8
STEPS = 4
SHAPES: list[dict[str, Any]] = [
    {"width": 0},
    {"width": 0, "dropout": 0.5},
    {"width": 16, "dropout": 0.2},
    {"width": "16-8", "dropout": 0.3},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_epoch(number: int, *, rate: float = 1e-2, clip: float = 0.0, **shape: Any) -> HeadEpoch:
    head = make_head(FEATURES, CLASSES, **shape, seed=number)
    groups = make_parameter_groups(head=dict(head.named_parameters()), backbone={}, learning_rate=rate)
    updates = Updates(
        forward=head,
        optimizer=make_optimizer(("adamw", "sgd")[number % 2], groups),
        num_classes=CLASSES,
        label_smoothing=0.1,
        class_weights=torch.tensor([0.5, 1.0, 1.5]),
        gradient_clip=clip,
    )
    return HeadEpoch(
        head=head,
        updates=updates,
        batches=draw_batches(number),
        schedule=make_schedule("cosine", total_steps=3 * STEPS),
        first_step=0,
        generator=torch.Generator().manual_seed(number),
    )


def draw_batches(number: int) -> list[tuple[Tensor, Tensor]]:
    data = torch.Generator().manual_seed(100)
    features = torch.randn(IMAGES, FEATURES, generator=data)
    labels = torch.randint(CLASSES, (IMAGES,), generator=data)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(200 + number))
    return [(features[rows], labels[rows]) for rows in order.split(BATCH)]


def train_alone(one: HeadEpoch) -> TrainResult:
    one.head.train()
    return train_epoch(one.updates, one.batches, schedule=one.schedule, first_step=0, generator=one.generator)


def values(one: HeadEpoch) -> list[Tensor]:
    return [parameter.detach() for parameter in one.head.parameters()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_in_lockstep_is_bit_for_bit_the_same_whoever_is_beside_it(shape: dict[str, Any]) -> None:
    crowd = [make_epoch(number, **shape) for number in range(7)]
    results = train_heads(crowd)

    for number in (0, 3, 6):
        single = make_epoch(number, **shape)
        (result,) = train_heads([single])

        assert all(torch.equal(a, b) for a, b in zip(values(single), values(crowd[number]), strict=True))
        together = results[number]
        assert isinstance(result, TrainResult)
        assert isinstance(together, TrainResult)
        assert torch.equal(result.sums.totals, together.sums.totals)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lockstep_and_the_ordinary_loop_agree_draw_for_draw(shape: dict[str, Any]) -> None:
    crowd = [make_epoch(number, clip=0.5, **shape) for number in range(3)]
    results = train_heads(crowd)

    for number, together in enumerate(results):
        single = make_epoch(number, clip=0.5, **shape)
        alone = train_alone(single)

        assert isinstance(together, TrainResult)
        torch.testing.assert_close(values(single), values(crowd[number]), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone.sums.totals, together.sums.totals)
        assert (alone.next_step, alone.images, alone.ended) == (4, IMAGES, False)
        assert (together.next_step, together.images, together.ended) == (4, IMAGES, False)
        assert together.learning_rate == alone.learning_rate


def test_one_that_diverges_is_told_and_the_others_are_not_touched() -> None:
    crowd = [make_epoch(0), make_epoch(1, rate=1e60), make_epoch(2)]
    calm = [make_epoch(0), make_epoch(1), make_epoch(2)]

    results, expected = train_heads(crowd), train_heads(calm)

    assert isinstance(results[1], Diverged)
    assert "the loss at update" in str(results[1])
    for number in (0, 2):
        result, calm_result = results[number], expected[number]
        assert isinstance(result, TrainResult)
        assert isinstance(calm_result, TrainResult)
        assert torch.equal(result.sums.totals, calm_result.sums.totals)


def test_only_heads_of_the_same_shape_loss_and_batches_are_put_in_step() -> None:
    head = TrialConfig(backbone="lite0", regime="linear_probe", unfreeze_depth=0)
    changes: list[dict[str, Any]] = [
        {"head_width": 16},
        {"dropout": 0.1},
        {"batch_size": 64},
        {"label_smoothing": 0.1},
        {"class_weights": "balanced"},
    ]
    fields = {**head.__dict__}

    keys = [lockstep_key(TrialConfig(**fields | change)) for change in changes]

    assert len({lockstep_key(head), *keys}) == 1 + len(changes)
    assert lockstep_key(TrialConfig(**fields | {"learning_rate": 0.1})) == lockstep_key(head)
    assert lockstep_key(TrialConfig(**fields | {"head_batch_norm": True})) is None
    assert lockstep_key(TrialConfig(**fields | {"schedule": "hyperrule"})) is None


def test_on_a_cpu_heads_train_one_after_another() -> None:
    assert not trains_in_lockstep(torch.device("cpu"))
    assert trains_in_lockstep(torch.device("cuda"))
