"""What single augmentation policies do to pixels."""

from __future__ import annotations

import pytest
import torch

from trainables.data.geometry import resample
from trainables.data.policies import augment, evaluation_view

IDS = torch.arange(64)


def make_gradient(side: int, num: int = 64) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, columns, rows + columns], dim=-1).to(torch.uint8).expand(num, side, side, 3)


def view_of(images: torch.Tensor, policy: str, size: int) -> torch.Tensor:
    return augment(images, ids=IDS[: len(images)], epoch=0, policy=policy, size=size, seed=0)


def test_the_evaluation_view_is_the_exact_middle() -> None:
    images = make_gradient(20, num=1)

    view = evaluation_view(images, size=16)

    torch.testing.assert_close(view[0, 0, :, 0] * 255, torch.arange(2.0, 18.0))
    torch.testing.assert_close(view[0, 1, 0] * 255, torch.arange(2.0, 18.0))


def test_the_evaluation_view_of_a_squashed_image_shows_all_of_it() -> None:
    images = make_gradient(20, num=1)

    view = evaluation_view(images, size=10, fit="squash")

    assert view[0, 0, 0, 0] * 255 < 2 and view[0, 0, -1, 0] * 255 > 17


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    images = make_gradient(20)
    plain = evaluation_view(images, size=16)

    view = view_of(images, "flip", 16)

    mirrored = torch.tensor([torch.equal(one, other.flip(2)) for one, other in zip(view, plain, strict=True)])
    kept = torch.tensor([torch.equal(one, other) for one, other in zip(view, plain, strict=True)])
    assert torch.equal(mirrored, ~kept)
    assert 20 <= mirrored.sum() <= 44


def test_bit_cuts_every_window_that_fits() -> None:
    images = make_gradient(20)

    view = view_of(images, "bit_no_flip", 16)

    tops = (view[:, 0, 0, 0] * 255).round().int()
    lefts = (view[:, 1, 0, 0] * 255).round().int()
    assert set(tops.tolist()) == set(lefts.tolist()) == {0, 1, 2, 3, 4}
    steps = view[:, 0, :, 0] * 255 - tops[:, None]
    torch.testing.assert_close(steps, torch.arange(16.0).expand(64, 16), atol=1e-4, rtol=0)


def test_a_shift_past_the_border_goes_on_by_reflection() -> None:
    images = make_gradient(20)

    view = view_of(images, "light", 20)

    tops = (view[:, 0, 0, 0] * 255).round()
    assert tops.min() == 0 and tops.max() == 2  # moved by at most 0.1 * 20, to either side
    seconds = (view[:, 0, 1, 0] * 255).round()
    assert ((seconds - tops).abs() == 1).all()


def test_resampling_without_any_change_is_the_centre_crop() -> None:
    images = torch.randint(
        0, 256, (3, 20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )

    view = resample(
        images.permute(0, 3, 1, 2).float() / 255,
        torch.full((3, 6), 0.5),
        size=16,
        shown=16 / 20,
        flips=None,
        shift=0,
        min_area=1,
        max_aspect=1,
        rotation=0,
        zoom=0,
        padding="reflection",
    )

    torch.testing.assert_close(view, evaluation_view(images, size=16), atol=1e-5, rtol=0)


def test_a_rotation_keeps_the_middle_in_the_middle() -> None:
    images = torch.zeros(64, 21, 21, 3, dtype=torch.uint8)
    images[:, 9:12, 9:12] = 255

    view = view_of(images, "strong", 19)
    quiet = view_of(images, "digits_safe", 19)

    rows = torch.arange(19.0)
    centres = (quiet[:, 0].sum(2) * rows).sum(1) / quiet[:, 0].sum((1, 2))
    assert (centres - 9).abs().max() < 0.08 * 19 + 0.5
    assert view.isfinite().all()


def test_erasing_greys_a_square_in_about_a_quarter_of_the_images() -> None:
    images = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)

    view = view_of(images, "strong", 28)

    share = (view[:, 0] == 0.5).float().mean((1, 2))
    assert 6 <= (share > 0).sum() <= 28
    assert share.max() < 0.25
    assert share[share > 0].min() > 0.01


@pytest.mark.parametrize("policy", ["lihgt", "none ", ""])
def test_an_unknown_policy_is_refused_with_the_known_ones(policy: str) -> None:
    with pytest.raises(ValueError, match="known are none, flip"):
        view_of(make_gradient(20), policy, 16)


def test_a_view_larger_than_the_stored_image_is_refused() -> None:
    with pytest.raises(ValueError, match="32 px does not fit into stored images of 20 px"):
        evaluation_view(make_gradient(20), size=32)
