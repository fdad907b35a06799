"""The hand-made networks are what the reports say, layer by layer and number by number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.heads import make_head
from trainables.model.networks import make_backbone
from trainables.model.own.mobilenet_mish import MaxBlurPool, RepeatedPass


def make(name: str, image_size: int = 64) -> nn.Module:
    return make_backbone(find_backbone(name), image_size=image_size).eval()


def count(module: nn.Module, kind: type[nn.Module] | Callable[[nn.Module], bool]) -> int:
    check = (lambda layer: isinstance(layer, kind)) if isinstance(kind, type) else kind
    return sum(check(layer) for layer in module.modules())


def test_the_handcrafted_network_has_the_published_number_of_parameters() -> None:
    backbone = make("handcrafted")

    classifier = Classifier(
        backbone, make_head(num_features(backbone), 5, width=64, dropout=0.1), depth="all"
    )

    statistics = sum(
        buffer.numel() for name, buffer in backbone.named_buffers() if name.endswith(("_mean", "_var"))
    )
    assert classifier.num_parameters() == (406_149, 406_149)
    assert statistics == 960
    assert [layer.p for layer in backbone.modules() if isinstance(layer, nn.Dropout)] == [0.3, 0.3, 0.3]


def test_six_convolutions_double_their_filters_and_flatten() -> None:
    backbone = make("six_conv", 96)

    filters = [layer.out_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]

    assert filters == [16, 32, 64, 128, 256, 256]
    assert (count(backbone, nn.MaxPool2d), count(backbone, nn.ReLU)) == (6, 6)
    assert num_features(backbone) == 256 and num_features(make("six_conv", 128)) == 4 * 256
    with pytest.raises(ValueError, match="--image-size 64"):
        make("six_conv", 48)


def test_linear_pixels_are_the_pixels() -> None:
    images = torch.rand(2, 3, 8, 8)

    features = make("linear_pixels", 8)(images)

    assert torch.equal(features, images.flatten(1))


@pytest.mark.slow
def test_vgg_without_its_last_pooling_shows_four_times_the_positions() -> None:
    rows = [find_backbone(name) for name in ("vgg16", "vgg16_no_last_pool")]

    maps = [make_backbone(row, image_size=32, pooling="flatten") for row in rows]

    assert [num_features(module) for module in maps] == [512, 512 * 4]
    assert [count(module, nn.MaxPool2d) for module in maps] == [5, 4]
    assert not any(name.startswith("pre_logits") for module in maps for name, _ in module.named_parameters())


def test_the_modified_mobilenet_differs_from_mobilenet_v2_as_published() -> None:
    plain, mish = make("mobilenet_v2"), make("mobilenet_v2_mish")

    sizes = [sum(value.numel() for value in module.parameters()) for module in (plain, mish)]

    assert sizes[0] == sizes[1]
    assert count(mish, nn.Mish) == count(plain, nn.ReLU6) > 0 and count(mish, nn.ReLU6) == 0
    assert count(mish, RepeatedPass) == 10  # n - 1 of every group: 0, 1, 2, 3, 2, 2, 0
    assert num_features(mish) == 1280


def test_a_repeated_pass_sees_its_input_again_each_time() -> None:
    block = nn.Linear(3, 3)
    inputs = torch.rand(2, 3)

    outputs = RepeatedPass(block, passes=2)(inputs)

    torch.testing.assert_close(outputs, inputs + block(inputs + block(inputs)))


def test_the_variants_drop_out_and_blur() -> None:
    dropping, blurring = make("mobilenet_v2_mish_dropout"), make("mobilenet_v2_mish_blur")

    assert count(dropping, lambda layer: isinstance(layer, nn.Dropout2d) and layer.p > 0) == 10
    assert count(blurring, MaxBlurPool) == 4  # the blocks with stride 2
    assert not [
        layer
        for layer in blurring.get_submodule("blocks").modules()
        if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
    ]


def test_a_searched_resnet_has_the_version_depth_and_pooling_of_its_name() -> None:
    modules = {
        name: make(f"hyper_resnet:{name}") for name in ("v1:26:average", "v2:50:max", "next:26:average")
    }

    convolutions = {
        name: count(module, lambda layer: isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3))
        for name, module in modules.items()
    }

    assert convolutions == {"v1:26:average": 8, "v2:50:max": 16, "next:26:average": 8}
    assert count(modules["next:26:average"], lambda layer: getattr(layer, "groups", 1) == 32) == 8
    assert type(modules["v2:50:max"]).__name__ == "ResNetV2"
    maps = torch.rand(1, 2048, 3, 3)
    assert torch.equal(modules["v2:50:max"].head.global_pool(maps).flatten(), maps.amax((2, 3)).flatten())


def test_flattened_features_are_all_values_of_the_last_maps() -> None:
    row = find_backbone("resnet18")
    pooled, maps = make("resnet18"), make_backbone(row, image_size=64, pooling="flatten").eval()
    images = torch.rand(2, 3, 64, 64)

    features = maps(images)

    assert num_features(maps) == features[0].numel() == 512 * 2 * 2
    torch.testing.assert_close(features.mean((2, 3)), pooled(images))


def test_a_network_without_maps_refuses_to_flatten_them() -> None:
    with pytest.raises(ValueError, match="head_pooling must be average"):
        make_backbone(find_backbone("alexnet"), pooling="flatten")


def test_an_image_size_that_patches_do_not_fill_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="126 or 140"):
        make_backbone(find_backbone("dinov2_small"), image_size=128)
