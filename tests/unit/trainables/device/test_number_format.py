"""bfloat16 is used where it is native, in every forward pass, and is part of cache keys."""

from __future__ import annotations

import copy
import dataclasses
from importlib import metadata

import pytest
import torch
from torch import Tensor, nn

from tests.cache_tools import KEY
from trainables.activations import inputs
from trainables.device import accelerator
from trainables.device.accelerator import autocast, number_format
from trainables.images import store as image_store
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.frozen_prefixes import FrozenPrefixes, Segment
from trainables.model.heads import make_head
from trainables.model.networks import make_backbone
from trainables.training.head_batch import HeadEpoch, train_heads
from trainables.training.loop import Updates, compute_logits
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.schedules import make_schedule

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def bfloat16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for a GPU that has bfloat16."""
    monkeypatch.setattr(accelerator, "number_format", lambda _: torch.bfloat16)


def of_gpu(monkeypatch: pytest.MonkeyPatch, *, major: int) -> None:
    """Let torch report a GPU of this compute capability."""

    def is_supported(including_emulation: bool = True) -> bool:
        return major >= 8 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    inputs.describe_arithmetic.cache_clear()


@pytest.mark.parametrize(
    ("major", "expected"), [(9, torch.bfloat16), (8, torch.bfloat16), (7, torch.float32), (6, torch.float32)]
)
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, major: int, expected: torch.dtype
) -> None:
    of_gpu(monkeypatch, major=major)

    assert number_format(GPU) == expected
    assert number_format(CPU) == torch.float32


def test_the_context_casts_as_the_format_says(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs, found = nn.Linear(2, 2), torch.rand(1, 2), []

    for chosen in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(accelerator, "number_format", lambda _, chosen=chosen: chosen)
        with autocast(CPU):
            found.append(layer(inputs).dtype)

    assert found == [torch.bfloat16, torch.float32]


@pytest.mark.usefixtures("bfloat16_on_cpu")
def test_prefixes_and_updates_compute_in_the_same_format() -> None:
    backbone = make_backbone(find_backbone("lite0"), image_size=32).eval()
    classifier = Classifier(backbone, nn.Linear(1280, 3), depth=0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    features = classifier.prefix_features(images)
    [(_, rows)] = FrozenPrefixes(backbone, [Segment(0, backbone, is_exact=True)]).outputs(images)
    logits = compute_logits(classifier.head, features)

    for values in (features, rows, logits):
        assert values.dtype == torch.float32
        assert torch.equal(values, values.bfloat16().float())


def train_one(head: nn.Sequential, inputs: Tensor) -> None:
    groups = make_parameter_groups(head=dict(head.named_parameters()), backbone={}, learning_rate=0.1)
    updates = Updates(forward=head, optimizer=make_optimizer("sgd", groups), num_classes=3)
    epoch = HeadEpoch(
        head=head,
        updates=updates,
        batches=[(inputs, torch.arange(len(inputs)) % 3)],
        schedule=make_schedule("constant", total_steps=10),
        first_step=0,
        generator=torch.Generator().manual_seed(0),
    )
    train_heads([epoch])


def test_heads_in_lockstep_compute_in_the_format_too(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    exact = make_head(4, 3, seed=0)
    rounded = copy.deepcopy(exact)

    train_one(exact, inputs)
    monkeypatch.setattr(accelerator, "number_format", lambda _: torch.bfloat16)
    train_one(rounded, inputs)

    first, second = (head.get_submodule("output").get_parameter("weight") for head in (exact, rounded))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, atol=1e-2, rtol=0)


def test_the_key_of_activations_tells_a_cpu_from_a_gpu_and_one_number_format_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for device, major in (("cpu", 9), ("cuda", 9), ("cuda", 7)):
        of_gpu(monkeypatch, major=major)
        found.append(inputs.describe_arithmetic(device))

    assert [text.split(", ")[:2] for text in found] == [
        ["cpu", "float32"],
        ["cuda", "bfloat16"],
        ["cuda", "float32"],
    ]
    assert len({dataclasses.replace(KEY, computed_by=text).digest for text in found}) == 3


def test_the_key_of_activations_changes_with_libraries_own_code_and_stored_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def describe() -> str:
        inputs.describe_arithmetic.cache_clear()
        return inputs.describe_arithmetic("cpu")

    found = {describe()}
    monkeypatch.setattr(torch, "__version__", "9.9")
    found.add(describe())
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 9.9")
    found.add(describe())
    monkeypatch.setattr(inputs, "PREFIX_REVISION", 99)
    found.add(describe())
    monkeypatch.setattr(image_store, "FORMAT", 99)
    found.add(describe())
    inputs.describe_arithmetic.cache_clear()

    assert len(found) == 5
