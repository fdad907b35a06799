"""The GAN's networks take and give what they say, and its augmentation lets gradients through."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from trainables.synthesis.augmentation import augment_for_discriminator
from trainables.synthesis.networks import Shape, build_networks
from trainables.synthesis.pretrained import PretrainedDiscriminator, PretrainedMaps
from trainables.synthesis.training import random_stream


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3)])
def test_generator_makes_images_that_the_discriminator_scores(size: int, channels: int) -> None:
    shape = Shape(image_size=size, num_classes=3, channels=channels, width=8, widest=16)
    generator, discriminator = build_networks(shape, seed=0)
    labels = torch.tensor([0, 2])

    images = generator(torch.randn(2, shape.latent), labels)

    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (2, 1)


def test_size_that_the_networks_cannot_make_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="must be one of 32, 64, 128, got 48"):
        Shape(image_size=48, num_classes=2)


def test_networks_depend_on_the_seed_and_leave_other_random_numbers_alone() -> None:
    shape = Shape(image_size=32, num_classes=2, width=8, widest=16)
    before = torch.get_rng_state()

    first, second, other = (build_networks(shape, seed=seed)[0].last.weight for seed in (1, 1, 2))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_scores_depend_on_the_class() -> None:
    shape = Shape(image_size=32, num_classes=2, width=8, widest=16)
    discriminator = build_networks(shape, seed=0)[1].eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1

    scores = discriminator(image.repeat(2, 1, 1, 1), torch.tensor([0, 1]))

    assert scores[0] != scores[1]


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3)])
def test_pretrained_network_judges_beside_the_pixels_and_is_no_part_of_the_weights(
    size: int, channels: int
) -> None:
    shape = Shape(image_size=size, num_classes=3, channels=channels, width=8, widest=16)
    maps = PretrainedMaps(torch.rand(6, channels, size, size) * 2 - 1)
    discriminator = build_networks(shape, seed=0, discriminator=partial(PretrainedDiscriminator, maps=maps))[
        1
    ]
    images = (torch.rand(2, channels, size, size) * 2 - 1).requires_grad_()

    scores = discriminator(images, torch.tensor([0, 2]))
    scores[:, 48:].sum().backward()

    assert scores.shape == (2, 2 * 48), "three maps of 4 by 4 positions, and pixels with the same weight"
    assert len(scores[0, :48].unique()) == 1
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all(), "the generator learns through the network"
    assert maps.sizes == [(24, 16), (40, 8), (112, 4)]
    assert sum(value.numel() for value in discriminator.state_dict().values()) < 1_000_000
    assert all(name.startswith(("pixels.", "heads.")) for name in discriminator.state_dict())


def test_maps_of_real_images_have_a_deviation_of_1() -> None:
    images = torch.rand(8, 3, 64, 64) * 2 - 1

    for each in PretrainedMaps(images)(images):
        assert float(each.std()) == pytest.approx(1, abs=1e-4)


def test_gradients_pass_through_the_augmentation() -> None:
    images = torch.rand(8, 3, 32, 32, requires_grad=True)

    augment_for_discriminator(images, random_stream(0, "test", 0)).square().sum().backward()

    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_augmentation_changes_colour_and_place_by_its_random_numbers_alone() -> None:
    images = torch.rand(16, 3, 32, 32) * 2 - 1

    first, second, other = (augment_for_discriminator(images, random_stream(0, "t", n)) for n in (0, 0, 1))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first == 0).flatten(1).float().mean(dim=1).min() > 0.05, "every image has a hole"


def test_shift_moves_an_image_by_an_eighth_of_the_side_at_most() -> None:
    images = torch.zeros(200, 1, 32, 32)
    images[:, :, 16, 16] = 1.0

    views = augment_for_discriminator(images, random_stream(3, "test", 0)).flatten(1)

    brightness = (views - views.median(dim=1, keepdim=True).values).clamp(min=0)
    spots = brightness.argmax(dim=1)[brightness.amax(dim=1) > 0.6]
    moves = torch.stack([spots // 32, spots % 32]) - 16
    assert len(spots) > 50
    assert moves.min() == -4
    assert moves.max() == 4
