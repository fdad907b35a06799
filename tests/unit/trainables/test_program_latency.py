"""What a combination costs is known before it is built."""

from __future__ import annotations

import time

import pytest
import torch

from contract.answer import MemberRef, Pooling
from tests.tiny_data import make_settings
from tests.trained_members import combine
from trainables.export.latency import CombinationCosts, measure_latency

BASE = {"backbone": "lite0", "regime": "linear_probe", "unfreeze_depth": 0}
CONFIGS = {
    MemberRef("trial", 0): BASE,
    MemberRef("trial", 1): BASE | {"learning_rate": 1e-2},
    MemberRef("trial", 2): BASE | {"regime": "finetune", "unfreeze_depth": 3},
    MemberRef("trial", 3): BASE | {"regime": "scratch", "unfreeze_depth": "all"},
}
FROZEN, ALIKE, DEEP, WHOLE = CONFIGS


@pytest.fixture
def costs(tmp_path_factory: pytest.TempPathFactory) -> CombinationCosts:
    return CombinationCosts(make_settings(tmp_path_factory.mktemp("study"), fits=("crop",)))


def test_shared_layers_are_paid_once_and_merged_heads_too(costs: CombinationCosts) -> None:
    def cost(*refs: MemberRef, pooling: Pooling = Pooling.LOGITS) -> float:
        return costs.milliseconds(combine(*refs, pooling=pooling), CONFIGS)

    one, flipped = cost(FROZEN), MemberRef("trial", 0, "flip")

    assert cost(FROZEN, ALIKE) == one
    assert one < cost(FROZEN, ALIKE, pooling=Pooling.PROBABILITIES) < 1.5 * one
    assert one < cost(FROZEN, DEEP) < one + cost(DEEP)
    assert cost(FROZEN, flipped) == pytest.approx(2 * one)
    assert cost(FROZEN, WHOLE) == pytest.approx(one + cost(WHOLE))


def test_a_latency_is_for_one_image_and_a_throughput_for_many() -> None:
    batches: list[int] = []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            batches.append(len(images))
            time.sleep(0.001)
            return images

    latency = measure_latency(Network(), image_size=8, device=torch.device("cpu"))

    assert latency.milliseconds >= 1
    assert latency.images_per_second <= 32_000
    assert set(batches) == {1, 32}
