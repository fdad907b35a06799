"""MixUp and CutMix as views: pixels, soft labels, limits, and one draw for each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data.mixing import Mix, MixDraws, draw_mix, mix_labels, mix_views

SIZE = 20
IDS = np.arange(2000)


def draw(mix: Mix, *, seed: int = 0, epoch: int = 1, copy: int = 0) -> MixDraws:
    return draw_mix(mix, seed=seed, epoch=epoch, ids=IDS, copy=copy, size=SIZE)


def black_and_white(num: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(num, 3, SIZE, SIZE), torch.ones(num, 3, SIZE, SIZE)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_pixels_and_label_give_the_partner_the_same_share(kind: str, alpha: float) -> None:
    draws = draw(Mix(kind=kind, alpha=alpha))  # type: ignore[arg-type]
    black, white = black_and_white(len(IDS))

    views = mix_views(black, white, draws)
    labels = mix_labels(torch.zeros(2000).long(), torch.full((2000,), 2), draws, num_classes=4)

    torch.testing.assert_close(views.mean((1, 2, 3)), labels[:, 2])
    torch.testing.assert_close(labels.sum(1), torch.ones(2000))
    assert not labels[:, [1, 3]].any()
    assert views.min() >= 0 and views.max() <= 1


def test_mixup_blends_every_pixel_alike() -> None:
    draws = draw(Mix(kind="mixup", alpha=1.0))
    views, partners = torch.rand(2, 2000, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    mixed = mix_views(views, partners, draws)

    own = torch.from_numpy(draws.own_shares).float()[:, None, None, None]
    torch.testing.assert_close(mixed, own * views + (1 - own) * partners)


def test_cutmix_shows_the_partner_in_one_square_and_the_image_around_it() -> None:
    draws = draw(Mix(kind="cutmix"))
    black, white = black_and_white(len(IDS))

    patched = mix_views(black, white, draws)[:, 0] == 1

    rows, columns = patched.any(2).sum(1), patched.any(1).sum(1)
    assert torch.equal(rows, columns)
    assert torch.equal(rows * columns, patched.sum((1, 2)))
    assert patched.float().mean(0).min() > 0.05  # everywhere, the corners included


def test_cutmix_keeps_the_sides_of_its_patch_between_the_limits() -> None:
    draws = draw(Mix(kind="cutmix", smallest_side=0.25, largest_side=0.6))

    assert draws.patches is not None
    sides = draws.patches[:, 2:] - draws.patches[:, :2]
    counts = np.bincount(sides[:, 0], minlength=SIZE)
    assert np.array_equal(sides[:, 0], sides[:, 1])
    assert np.flatnonzero(counts).min() == 5 and np.flatnonzero(counts).max() == 12
    assert counts[5:13].max() < 4 * counts[6:12].min()  # no heap at a limit
    assert draws.patches.min() >= 0 and draws.patches.max() <= SIZE


def test_a_patch_of_a_fixed_size_is_possible() -> None:
    draws = draw(Mix(kind="cutmix", smallest_side=0.5, largest_side=0.5))

    assert set(draws.own_shares) == {0.75}


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_shares_of_mixup_are_distributed_as_beta(alpha: float) -> None:
    shares = np.sort(draw(Mix(kind="mixup", alpha=alpha)).own_shares)

    expected = np.sort(np.random.default_rng(0).beta(alpha, alpha, size=200_000))[50::100]
    assert np.abs(shares - expected).max() < 0.06
    assert abs(shares.mean() - 0.5) < 0.03


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_many_images_are_mixed_as_asked_and_the_others_stay(kind: str, share: float) -> None:
    draws = draw(Mix(kind=kind, mixed_share=share))  # type: ignore[arg-type]
    views, partners = torch.rand(2, 2000, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    mixed = mix_views(views, partners, draws)

    same = (mixed == views).flatten(1).all(1).numpy()
    assert same[~draws.is_mixed].all()
    assert (draws.own_shares[~draws.is_mixed] == 1).all()
    assert abs(draws.is_mixed.mean() - share) < 0.04


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_draw_depends_on_seed_epoch_copy_and_image_and_on_nothing_else(kind: str) -> None:
    mix = Mix(kind=kind)  # type: ignore[arg-type]
    whole = draw(mix)

    part = draw_mix(mix, seed=0, epoch=1, ids=np.array([42, 7]), size=SIZE)

    assert np.array_equal(part.own_shares, whole.own_shares[[42, 7]])
    assert np.array_equal(part.partners, whole.partners[[42, 7]])
    others = [draw(mix, seed=1), draw(mix, epoch=2), draw(mix, copy=1)]
    assert all(not np.array_equal(whole.own_shares, other.own_shares) for other in others)
    assert len(np.unique(whole.partners)) == 2000


def test_another_setting_is_another_view_and_none_has_no_name() -> None:
    mixes = [
        Mix(kind="mixup"),
        Mix(kind="mixup", alpha=0.4),
        Mix(kind="mixup", mixed_share=0.5),
        Mix(kind="cutmix"),
        Mix(kind="cutmix", largest_side=0.5),
        Mix(kind="cutmix", within_class=True),
        Mix(kind="mixup", within_class=True),
        Mix(),
    ]

    assert len({mix.identity for mix in mixes}) == len(mixes)
    assert Mix().identity == Mix(kind="mixup", mixed_share=0).identity == ""
    assert Mix(kind="cutmix").identity == "cutmix(1.0,1.0,0.0,1.0)"  # as caches have it
    # A limit that MixUp does not read must not split its views.
    assert Mix(kind="mixup", largest_side=0.5).identity == Mix(kind="mixup").identity
