"""Every row of the backbone table: found by timm, cut exactly, and frozen where it says so."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.backbones import find_backbone, names, num_features
from trainables.model.classifier import Classifier, channels_last
from trainables.model.heads import make_head
from trainables.model.networks import make_backbone, normalisation
from trainables.model.stages import Depth, cut, num_stages, trainable_names

QUICK = ("alexnet", "handcrafted", "lite0", "mobilenet_v2", "resnet18", "six_conv")
# Too large to train on every push: there, only the structure of their cuts is looked at, without numbers.
GIANT = ("bit_r101x1", "bit_r50x3", "bit_r152x2")
VARIANTS = ("hyper_resnet:v2:26:max", "hyper_resnet:next:26:average")
SIZES = {"vit_small": 48, "swin_tiny": 56, "dinov2_small": 56}
ROWS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in (*names(), *VARIANTS)]


def image_size(name: str) -> int:
    return SIZES.get(name, 96 if name.startswith("inception") else 64)


def make_restless(name: str) -> nn.Module:
    """A backbone none of whose parameters starts at zero, so that every trainable one has a gradient."""
    module = make_backbone(find_backbone(name), image_size=image_size(name))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    return module


def depths(module: nn.Module, *, full: bool) -> list[Depth]:
    """Every depth, or some: the head, the top, the middle, everything."""
    count = num_stages(module)
    return [*range(count + 1), "all"] if full else list(dict.fromkeys((0, 1, count // 2, "all")))


def train_one_step(classifier: Classifier, images: Tensor) -> None:
    classifier.train()
    labels = torch.arange(len(images)) % 3
    loss = functional.cross_entropy(classifier(images), labels)
    loss.backward()
    assert torch.isfinite(loss)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
                parameter.grad = None


@pytest.mark.parametrize("name", names())
def test_a_row_has_pretrained_weights_somewhere_or_is_built_here(name: str) -> None:
    backbone = find_backbone(name)

    known = timm.list_pretrained()

    assert backbone.timm_name in known or backbone.own
    assert bool(backbone.timm_name) != bool(backbone.own)


def test_no_two_rows_share_a_key() -> None:
    keys = [find_backbone(name).key for name in (*names(), *VARIANTS)]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ROWS)
def test_prefix_and_suffix_are_the_whole_and_one_step_changes_only_what_trains(name: str, full: bool) -> None:
    if name in GIANT and not full:
        pytest.skip("hundreds of millions of parameters: with --full")
    backbone = make_restless(name).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, image_size(name), image_size(name), generator=generator)
    classifier = Classifier(backbone, make_head(num_features(backbone), 3), depth=0)

    initial = {key: value.clone() for key, value in backbone.state_dict().items()}
    with torch.no_grad():
        expected = backbone(classifier.normalise(images).contiguous(memory_format=torch.channels_last))

    for depth in depths(backbone, full=full):
        backbone.load_state_dict(initial)
        classifier.set_depth(depth)
        trainable = trainable_names(backbone, depth)
        with torch.no_grad():
            frozen = classifier.eval().prefix(channels_last(images))
            features, folded = classifier.suffix(frozen), classifier.prefix_features(images)
        head = classifier.head.get_submodule("output").weight.clone()
        train_one_step(classifier, images)

        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
        # Of the largest: some of these random networks blow the last bit of their input up to anything.
        assert (folded - frozen).abs().max() <= 2e-5 * frozen.abs().max()
        assert expected.shape == (3, num_features(backbone))
        assert set(dict(classifier.suffix.named_parameters())) == trainable
        assert set(dict(classifier.prefix.named_parameters())).isdisjoint(trainable)
        changed = {k for k, value in backbone.state_dict().items() if not torch.equal(initial[k], value)}
        assert changed <= set(classifier.suffix.state_dict())
        # A bias ahead of a batch norm may have a gradient too small to move it.
        assert {name for name in trainable if initial[name].dim() > 1} <= changed
        assert not torch.equal(head, classifier.head.get_submodule("output").weight)


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
