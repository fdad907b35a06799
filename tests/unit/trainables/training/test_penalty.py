"""The L2 penalty on the head is a term of the loss: it is clipped along with the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.heads import make_head
from trainables.training.head_batch import HeadEpoch, train_heads
from trainables.training.loop import Updates, train_epoch
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.schedules import make_schedule

L2, CLIP, RATE = 3.0, 0.05, 0.1
FEATURES = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(8) % 3
BATCHES = list(zip(FEATURES.split(4), CLASSES.split(4), strict=True))


@pytest.fixture
def head() -> nn.Sequential:
    return make_head(6, 3, seed=1)


def make_epoch(head: nn.Sequential, batches: Iterable[tuple[Tensor, Tensor]] = BATCHES) -> HeadEpoch:
    groups = make_parameter_groups(
        head=dict(head.named_parameters()), backbone={}, learning_rate=RATE, head_l2=L2
    )
    optimizer = make_optimizer("sgd", groups, momentum=0.0)
    return HeadEpoch(
        head=head,
        updates=Updates(forward=head, optimizer=optimizer, num_classes=3, gradient_clip=CLIP),
        batches=batches,
        schedule=make_schedule("constant", total_steps=100),
        first_step=0,
        generator=torch.Generator().manual_seed(0),
    )


def train_by_hand(head: nn.Sequential) -> None:
    output = head.get_submodule("output")
    for inputs, targets in BATCHES:
        head.zero_grad()
        penalty = L2 * output.get_parameter("weight").square().sum()
        (functional.cross_entropy(head(inputs), targets) + penalty).backward()
        nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        with torch.no_grad():
            for parameter in head.parameters():
                assert parameter.grad is not None
                parameter -= RATE * parameter.grad


def assert_same_weights(found: nn.Sequential, expected: nn.Sequential) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=1e-6)


def test_the_penalty_is_clipped_with_the_loss(head: nn.Sequential) -> None:
    expected = copy.deepcopy(head)
    train_by_hand(expected)
    epoch = make_epoch(head)

    train_epoch(
        epoch.updates, epoch.batches, schedule=epoch.schedule, first_step=0, generator=epoch.generator
    )

    assert_same_weights(head, expected)


def test_the_penalty_is_clipped_with_the_loss_in_lockstep_too(head: nn.Sequential) -> None:
    expected, other = copy.deepcopy(head), make_head(6, 3, seed=2)
    train_by_hand(expected)

    train_heads([make_epoch(head), make_epoch(other)])

    assert_same_weights(head, expected)
