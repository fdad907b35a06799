"""Batch norms folded into convolutions: the same output with fewer layers, and only where that holds."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from trainables.model.cpu.folding import find_folds, fold

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make_network() -> nn.Sequential:
    """In eval mode, with statistics that are not those of a fresh batch norm."""
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), BatchNormAct2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
    )
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert values is not None
                values.uniform_(0.5, 1.5, generator=generator)
    return network.eval().requires_grad_(False)


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_folded_network_has_no_batch_norm_and_the_same_output() -> None:
    network = make_network()
    expected = network(IMAGES)

    folded = fold(network, find_folds(network, IMAGES))

    assert (count_norms(folded), count_norms(network)) == (0, 2)
    torch.testing.assert_close(folded(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(network(IMAGES), expected)


def test_parts_of_a_network_compute_the_very_numbers_of_the_whole() -> None:
    network = make_network()
    folds = find_folds(network, IMAGES)
    first = nn.Sequential()
    first.add_module("0", network[0])
    second = nn.Sequential()
    second.add_module("1", network[1])

    assert torch.equal(fold(second, folds)(fold(first, folds)(IMAGES)), fold(network, folds)(IMAGES))


def test_a_part_that_ends_between_the_two_keeps_its_convolution() -> None:
    network = make_network()
    folds = find_folds(network, IMAGES)
    part = nn.Sequential(nn.Sequential(network[0][0]))

    assert torch.equal(fold(part, folds)(IMAGES), part(IMAGES))


class UsedTwice(nn.Module):
    """The batch norm is not the only user of the convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        nn.init.constant_(self.norm.bias, 1.0)  # a fresh one would leave the maps as they are

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        result: Tensor = self.norm(maps) + 2 * maps
        return result


class Repeated(nn.Module):
    """One convolution with two batch norms after it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, images: Tensor) -> Tensor:
        for norm in self.norms:
            images = norm(self.convolution(images))
        return images


@pytest.mark.parametrize("make", [UsedTwice, Repeated])
def test_a_convolution_with_other_uses_is_left_alone(make: type[nn.Module]) -> None:
    network = make().eval()

    assert find_folds(network, IMAGES) == []


def test_batch_norms_that_still_train_are_left_alone() -> None:
    network = make_network().train()

    assert find_folds(network, IMAGES) == []
    assert fold(network, []) is network
