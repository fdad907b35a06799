"""Every optimizer and schedule: it moves the weights, by the rate it was given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contract.trial_config import OPTIMIZERS, SCHEDULES
from trainables.training import optimizers, schedules


def make_groups(head: nn.Module, backbone: nn.Module) -> list[dict[str, object]]:
    return optimizers.make_parameter_groups(
        head=dict(head.named_parameters()),
        backbone=dict(backbone.named_parameters()),
        learning_rate=0.1,
        backbone_learning_rate_factor=0.5,
        weight_decay=0.01,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_lowers_a_loss(name: str) -> None:
    layer = nn.Linear(4, 1)
    inputs = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    optimizer = optimizers.make_optimizer(name, make_groups(layer, nn.Identity()))
    optimizers.set_learning_rate(optimizer, 0.1)
    losses = []

    for _ in range(10):
        optimizer.zero_grad()
        loss = ((layer(inputs) - 3) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_group_keeps_its_own_peak_and_norms_and_biases_are_not_decayed(name: str) -> None:
    groups = make_groups(nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))

    optimizer = optimizers.make_optimizer(name, groups)
    optimizers.set_learning_rate(optimizer, 0.5)

    found = {(g["part"], g["weight_decay"], len(g["params"])): g["lr"] for g in optimizer.param_groups}
    assert found == {
        ("head", 0.01, 1): 0.05,
        ("head", 0.0, 1): 0.05,
        ("backbone", 0.01, 1): 0.025,
        ("backbone", 0.0, 3): 0.025,
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_penalty_on_the_head_has_the_gradient_of_a_penalty_in_the_loss(name: str) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(4, 2), torch.rand(8, 4)
    copy = nn.Linear(4, 2)
    copy.load_state_dict(layer.state_dict())

    for module, in_loss, in_group in ((layer, 0.0, 0.3), (copy, 0.3, 0.0)):
        groups = optimizers.make_parameter_groups(
            head=dict(module.named_parameters()), backbone={}, learning_rate=0.01, head_l2=in_group
        )
        optimizer = optimizers.make_optimizer(name, groups)
        for _ in range(3):
            optimizer.zero_grad()
            (module(inputs).square().mean() + in_loss * module.weight.square().sum()).backward()
            optimizers.add_penalty(optimizer)
            optimizer.step()

    torch.testing.assert_close(layer.weight, copy.weight)
    torch.testing.assert_close(layer.bias, copy.bias)


def test_rates_decay_from_the_head_down_by_level() -> None:
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    groups = optimizers.make_parameter_groups(
        head=dict(nn.Linear(4, 2).named_parameters()),
        backbone=dict(backbone.named_parameters()),
        learning_rate=1.0,
        backbone_learning_rate_factor=0.8,
        layer_decay=0.5,
        levels={"0.weight": 2, "0.bias": 2, "1.weight": 1, "1.bias": 1},
    )

    rates = {id(value): group["peak_lr"] for group in groups for value in group["params"]}
    assert [rates[id(value)] for value in backbone.parameters()] == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert {group["peak_lr"] for group in groups if group["part"] == "head"} == {1.0}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_rises_from_0_reaches_its_peak_and_ends(name: str) -> None:
    schedule = schedules.make_schedule(name, total_steps=1000, warmup_steps=50, num_train=100)

    shares = [schedule.multiplier(step) for step in range(1001)]

    running = [share for share in shares if share is not None]
    assert running[0] == 0
    assert max(running) == 1
    assert all(0 <= share <= 1 for share in running)
    assert shares[len(running) :] == [None] * (len(shares) - len(running))
    assert shares[-1] is None


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_continues_from_its_state_as_if_never_stopped(name: str) -> None:
    whole = schedules.make_schedule(name, total_steps=100, num_train=100)
    for loss in (1.0, 1.1, 1.2):
        whole.observe(loss)
    resumed = schedules.make_schedule(name, total_steps=100, num_train=100)

    resumed.load_state(whole.state())
    for schedule in (whole, resumed):
        schedule.observe(1.3)

    assert [resumed.multiplier(step) for step in range(100)] == [
        whole.multiplier(step) for step in range(100)
    ]
