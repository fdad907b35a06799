"""Every augmentation policy: one view of an image an epoch, in whatever batch, with values in [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contract.decoding import Fit
from trainables.data.augmentation import augment, evaluation_view
from trainables.data.policies import POLICIES, find_policy, names, policy_identity

STORED, SIZE = 37, 32
FITS: tuple[Fit, ...] = ("crop", "squash")
RANDOM = tuple(name for name in names() if name != "none")


def make_images(num: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, STORED, STORED, 3), dtype=torch.uint8, generator=generator)


def make_views(
    policy: str, *, epoch: int = 1, seed: int = 0, fit: Fit = "crop", copy: int = 0
) -> torch.Tensor:
    ids = torch.arange(100, 112)
    return augment(
        make_images(), ids=ids, epoch=epoch, policy=policy, size=SIZE, seed=seed, fit=fit, copy=copy
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("policy", names())
def test_a_policy_gives_floats_between_0_and_1_in_the_size_asked_for(policy: str, fit: Fit) -> None:
    view = make_views(policy, fit=fit)

    assert view.shape == (12, 3, SIZE, SIZE)
    assert view.dtype == torch.float32
    assert view.min() >= 0 and view.max() <= 1
    assert view.std() > 0.1


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("policy", names())
def test_a_view_is_the_same_in_whatever_batch_and_order_its_image_comes(policy: str, fit: Fit) -> None:
    images, ids = make_images(), torch.arange(100, 112)
    order = torch.tensor([7, 2, 11, 0])

    whole = augment(images, ids=ids, epoch=3, policy=policy, size=SIZE, seed=5, fit=fit)
    part = augment(images[order], ids=ids[order], epoch=3, policy=policy, size=SIZE, seed=5, fit=fit)

    torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", names())
def test_a_view_does_not_touch_the_global_generator_nor_the_images(policy: str) -> None:
    images, state = make_images(), torch.get_rng_state()
    before = images.clone()

    augment(images, ids=torch.arange(12), epoch=1, policy=policy, size=SIZE, seed=0)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("policy", RANDOM)
def test_views_differ_between_epochs_seeds_and_copies(policy: str) -> None:
    view = make_views(policy)

    assert not torch.equal(view, make_views(policy, epoch=2))
    assert not torch.equal(view, make_views(policy, seed=1))
    assert not torch.equal(view, make_views(policy, copy=1))
    assert torch.equal(view, make_views(policy))


@pytest.mark.parametrize("fit", FITS)
def test_the_policy_none_is_exactly_the_evaluation_view(fit: Fit) -> None:
    view = make_views("none", fit=fit)

    assert torch.equal(view, evaluation_view(make_images(), size=SIZE, fit=fit))


@pytest.mark.parametrize("policy", names())
def test_an_image_of_one_colour_keeps_it_where_colours_are_left_alone(policy: str) -> None:
    grey = torch.full((4, STORED, STORED, 3), 128, dtype=torch.uint8)  # erasing fills with nearly this grey

    view = augment(grey, ids=torch.arange(4), epoch=0, policy=policy, size=SIZE, seed=0)

    chosen = find_policy(policy)
    if not (chosen.recolours or chosen.automatic):
        tolerance = 0.003 if chosen.erasing else 1e-5
        torch.testing.assert_close(view, torch.full_like(view, 128 / 255), rtol=0, atol=tolerance)
    torch.testing.assert_close(view[:, 0], view[:, 1], rtol=0, atol=1e-5)  # grey stays grey


@pytest.mark.parametrize("policy", RANDOM)
def test_a_policy_draws_for_each_image_on_its_own(policy: str) -> None:
    images = make_images(1).expand(24, STORED, STORED, 3)

    views = augment(images, ids=torch.arange(24), epoch=1, policy=policy, size=SIZE, seed=0)

    assert len(torch.unique(views.flatten(1), dim=0)) > 1


@pytest.mark.parametrize("policy", RANDOM)
def test_copies_drawn_together_are_those_drawn_one_by_one(policy: str) -> None:
    images, ids = make_images(), torch.arange(100, 112)
    copies = np.array([0, 1, 2] * 4)

    together = augment(images, ids=ids, epoch=1, policy=policy, size=SIZE, seed=0, copy=copies)

    for copy in range(3):
        alone = make_views(policy, copy=copy)
        torch.testing.assert_close(together[copy::3], alone[copy::3], rtol=0, atol=1e-6)


def test_a_policy_that_means_something_else_is_another_one_to_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = policy_identity("light")

    monkeypatch.setitem(POLICIES, "light", find_policy("strong"))

    assert policy_identity("light") != before
    assert len({policy_identity(name) for name in names()}) == len(names())
