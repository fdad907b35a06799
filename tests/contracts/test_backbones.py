"""Every row of the backbone table: found by timm, cut exactly, and frozen where it says so."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.backbones import find_backbone, make_backbone, names, normalisation, num_features
from trainables.model.classifier import Classifier
from trainables.model.heads import make_head
from trainables.model.stages import Depth, cut, num_stages, parameter_stages

DEPTHS: tuple[Depth, ...] = (0, 1, 2, "all")
QUICK = ("lite0", "mobilenet_v2", "resnet18")
# Too large to train beside other tests: only the structure of their cuts is looked at, without numbers.
GIANT = ("bit_r50x3", "bit_r101x3", "bit_r152x2", "bit_r152x4")
ROWS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in names()
    if name not in GIANT
]


def image_size(name: str) -> int:
    return {"vit_small": 48, "swin_tiny": 56}.get(name, 96 if name.startswith("inception") else 64)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def make_restless(name: str) -> nn.Module:
    """A backbone none of whose parameters starts at zero, so that every trainable one has a gradient."""
    module = make_backbone(find_backbone(name), image_size=image_size(name))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize("name", names())
def test_a_row_is_known_to_timm_with_its_pretrained_weights(name: str) -> None:
    backbone = find_backbone(name)

    known = timm.list_pretrained()

    assert backbone.timm_name in known


@pytest.mark.parametrize("name", ROWS)
def test_prefix_and_suffix_together_are_the_whole_backbone(name: str) -> None:
    backbone = make_restless(name).eval()
    images = torch.rand(2, 3, image_size(name), image_size(name), generator=torch.Generator().manual_seed(1))
    stages, last = parameter_stages(backbone), num_stages(backbone) - 1
    with torch.no_grad():
        expected = backbone(images)

    for depth in DEPTHS:
        prefix, suffix = cut(backbone, depth)
        with torch.no_grad():
            features = suffix(prefix(images))
        top = last + 1 if depth == "all" else depth

        assert expected.shape == (2, num_features(backbone))
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
        assert set(dict(suffix.named_parameters())) == {
            n for n, stage in stages.items() if stage > last - top
        }
        assert set(dict(prefix.named_parameters())) == {
            n for n, stage in stages.items() if stage <= last - top
        }


@pytest.mark.parametrize("name", ROWS)
def test_one_step_changes_what_trains_and_not_one_bit_of_what_is_frozen(name: str) -> None:
    backbone = make_restless(name)
    classifier = Classifier(backbone, make_head(num_features(backbone), 3), depth=0)
    images = torch.rand(4, 3, image_size(name), image_size(name), generator=torch.Generator().manual_seed(1))

    for depth in DEPTHS:
        classifier.set_depth(depth)
        classifier.train()
        before, head_before = snapshot(backbone), snapshot(classifier.head)
        trainable = {**classifier.trainable_backbone_parameters(), **dict(classifier.head.named_parameters())}
        functional.cross_entropy(classifier(images), torch.tensor([0, 1, 2, 0])).backward()
        with torch.no_grad():
            for parameter in trainable.values():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
                parameter.grad = None

        after, suffix = snapshot(backbone), set(classifier.suffix.state_dict())
        frozen = set(after) - suffix
        changed = {key for key in after if not torch.equal(before[key], after[key])}
        assert not changed & frozen
        assert bool(changed) == bool(suffix)
        assert not torch.equal(head_before["output.weight"], classifier.head.state_dict()["output.weight"])
        assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", GIANT)
def test_a_giant_row_is_cut_at_every_stage(name: str) -> None:
    with torch.device("meta"):
        backbone = make_backbone(find_backbone(name))
    everything = set(dict(backbone.named_parameters()))

    for depth in range(num_stages(backbone) + 1):
        prefix, suffix = cut(backbone, depth)
        frozen, trainable = set(dict(prefix.named_parameters())), set(dict(suffix.named_parameters()))

        assert frozen | trainable == everything
        assert not frozen & trainable


@pytest.mark.parametrize("name", QUICK)
def test_a_row_says_how_its_images_are_normalised(name: str) -> None:
    backbone = make_backbone(find_backbone(name))

    mean, std = normalisation(backbone)

    assert len(mean) == len(std) == 3
    assert all(0 < value < 1 for value in mean + std)
