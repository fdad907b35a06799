"""What single augmentation policies do to pixels."""

from __future__ import annotations

import pytest
import torch

from trainables.data.augmentation import augment, evaluation_view, resample
from trainables.data.policies import find_policy

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


def test_erasing_greys_a_rectangle_in_about_a_quarter_of_the_images() -> None:
    images = torch.zeros(64, 40, 40, 3, dtype=torch.uint8)

    grey = view_of(images, "strong", 36)[:, 0] == 0.5

    share = grey.float().mean((1, 2))
    assert 6 <= (share > 0).sum() <= 28
    assert share.max() < 0.38 and share[share > 0].min() > 0.01
    rows, columns = grey.any(2).sum(1), grey.any(1).sum(1)
    assert torch.equal(rows * columns, grey.sum((1, 2)))  # all of it, and nothing beside it
    aspects = rows[share > 0] / columns[share > 0]
    assert aspects.max() > 1.3 and aspects.min() < 1 / 1.3


def test_flips_turn_about_a_quarter_of_the_images_each_way() -> None:
    images = make_gradient(20)
    plain = evaluation_view(images, size=16)

    view = view_of(images, "flips", 16)

    ways = [plain, plain.flip(3), plain.flip(2), plain.flip((2, 3))]
    counts = [sum(torch.equal(one, other) for one, other in zip(view, way, strict=True)) for way in ways]
    assert sum(counts) == 64
    assert all(5 <= count <= 30 for count in counts)


def test_zoom_changes_the_scale_by_up_to_a_fifth() -> None:
    images = make_gradient(60)

    view = view_of(images, "zoom", 40)

    steps = ((view[:, 0, 25, 20] - view[:, 0, 15, 20]) * 255 / 10).abs()  # source rows for each row
    assert steps.min() > 1 / 1.2 - 0.05 and steps.max() < 1 / 0.8 + 0.05
    assert steps.max() - steps.min() > 0.25


def test_contrast_moves_values_away_from_or_towards_the_images_own_mean() -> None:
    images = torch.full((64, 20, 20, 3), 100, dtype=torch.uint8)
    images[:, :, :10] = 140

    view = view_of(images, "contrast", 20)

    spread = (view[:, 0, 0, 0] - view[:, 0, 0, -1]).abs() * 255
    assert spread.min() > 40 * 0.7 - 1 and spread.max() < 40 * 1.3 + 1
    assert spread.max() - spread.min() > 15
    torch.testing.assert_close(view.mean((1, 2, 3)) * 255, torch.full((64,), 120.0))


def test_a_random_resized_crop_shows_between_a_twelfth_and_all_of_the_image() -> None:
    images = make_gradient(60)

    view = view_of(images, "random_resized_crop", 40)

    heights = (view[:, 0, -1, 0] - view[:, 0, 0, 0]).abs() * 255 * 40 / 39 / 60
    widths = (view[:, 1, 0, -1] - view[:, 1, 0, 0]).abs() * 255 * 40 / 39 / 60
    areas, aspects = heights * widths, widths / heights
    assert areas.min() > 0.07 and areas.max() < 1.05
    assert areas.min() < 0.2 and areas.max() > 0.8
    assert aspects.min() > 0.74 and aspects.max() < 1.36


def test_the_published_settings_are_what_their_policies_say() -> None:
    plants, flowers, scenes = (find_policy(name) for name in ("plants_b9", "flowers_e7", "scenes_d9"))
    imagenette = find_policy("imagenette")

    assert plants.flip and plants.flip_vertical and 0 < plants.shift <= 0.1
    assert flowers.flip and round(224 * flowers.shift) == 45
    assert (flowers.zoom, flowers.contrast) == (0.2, 0.3)
    assert (scenes.flip, scenes.shift, scenes.zoom) == (True, 0.1, 0.1)
    assert imagenette.flip and imagenette.random_crop and imagenette.erasing


@pytest.mark.parametrize("policy", ["lihgt", "none ", ""])
def test_an_unknown_policy_is_refused_with_the_known_ones(policy: str) -> None:
    with pytest.raises(ValueError, match="known are none, flip"):
        view_of(make_gradient(20), policy, 16)


def test_a_view_larger_than_the_stored_image_is_refused() -> None:
    with pytest.raises(ValueError, match="32 px does not fit into stored images of 20 px"):
        evaluation_view(make_gradient(20), size=32)
