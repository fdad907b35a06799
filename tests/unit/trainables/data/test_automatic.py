"""The operations of RandAugment and TrivialAugment against Pillow's, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from trainables.data import automatic
from trainables.data.automatic import OPERATION_POLICIES, OPERATIONS, apply_operations, matrix_of, move

SIDE = 24
Pillow = Callable[[Image.Image], Image.Image]


def make_pictures(num: int = 3) -> list[Image.Image]:
    """Smooth colours with some noise; the range of levels differs between pictures and colours."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    planes = np.stack([rows, columns, (rows + columns) / 2], axis=-1)
    pictures = []
    for number in range(num):
        levels = 40 + 20 * number + planes * (120 + 10 * number) + random.normal(0, 6, planes.shape)
        pictures.append(Image.fromarray(levels.clip(0, 255).astype(np.uint8)))
    return pictures


def to_view(pictures: list[Image.Image]) -> Tensor:
    return (
        torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]).permute(0, 3, 1, 2) / 255
    )


def largest_difference(view: Tensor, pictures: list[Image.Image]) -> float:
    """In levels of 255."""
    return float((view - to_view(pictures)).abs().max() * 255)


@pytest.mark.parametrize("change", [-0.9, -0.27, 0.0, 0.27, 0.9])
@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        (automatic.brighten, ImageEnhance.Brightness),
        (automatic.saturate, ImageEnhance.Color),
        (automatic.contrast, ImageEnhance.Contrast),
        (automatic.sharpen, ImageEnhance.Sharpness),
    ],
)
def test_an_enhancement_is_pillows(
    operation: automatic.Operation, enhancer: Callable[[Image.Image], ImageEnhance._Enhance], change: float
) -> None:
    pictures = make_pictures()

    view = operation(to_view(pictures), torch.full((3,), change))

    expected = [enhancer(picture).enhance(1 + change) for picture in pictures]
    assert (
        largest_difference(view, expected) < 2.1
    )  # Pillow rounds its grey or its blur first, and the result


@pytest.mark.parametrize(
    ("operation", "strength", "pillow", "tolerance"),
    [
        (automatic.posterize, 1, lambda picture: ImageOps.posterize(picture, 7), 0.01),
        (automatic.posterize, 6, lambda picture: ImageOps.posterize(picture, 2), 0.01),
        (automatic.posterize, 0, lambda picture: picture, 0.01),
        (automatic.solarize, 0.4, lambda picture: ImageOps.solarize(picture, 153), 0.01),
        (automatic.solarize, 1, lambda picture: ImageOps.invert(picture), 0.01),
        (automatic.autocontrast, 0, lambda picture: ImageOps.autocontrast(picture), 1.01),
        (automatic.equalize, 0, lambda picture: ImageOps.equalize(picture), 0.01),
    ],
)
def test_an_operation_on_levels_is_pillows(
    operation: automatic.Operation, strength: float, pillow: Pillow, tolerance: float
) -> None:
    pictures = make_pictures()

    view = operation(to_view(pictures), torch.full((3,), float(strength)))

    assert largest_difference(view, [pillow(picture) for picture in pictures]) < tolerance


@pytest.mark.parametrize(
    ("name", "strength"),
    [("shear_x", 0.3), ("shear_y", -0.3), ("translate_x", 0.2), ("translate_y", -0.3), ("rotate", 30.0)],
)
def test_a_move_is_pillows(name: str, strength: float) -> None:
    pictures = make_pictures()

    view = move(to_view(pictures), torch.tensor([matrix_of(name, strength)] * 3))

    (a, b, c), (d, e, f) = matrix_of(name, strength)
    cells = (a, b, c * SIDE, d, e, f * SIDE)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    expected = [picture.transform(picture.size, affine, cells, bilinear) for picture in pictures]
    inside = Image.new("L", (SIDE, SIDE), 255).transform((SIDE, SIDE), affine, cells, bilinear)
    kept = torch.from_numpy(np.array(inside)) == 255
    kept[0] = kept[-1] = kept[:, 0] = kept[:, -1] = False
    kept = -torch.nn.functional.max_pool2d(-kept[None].float(), 3, 1, 1)[0] > 0  # away from the border
    assert kept.sum() > SIDE * SIDE / 4
    assert ((view - to_view(expected)).abs().amax((0, 1)) * 255)[kept].max() < 1.1


def test_a_rotation_turns_as_pillow_turns() -> None:
    pictures = make_pictures()

    view = move(to_view(pictures), torch.tensor([matrix_of("rotate", 90.0)] * 3))

    assert largest_difference(view, [picture.rotate(90) for picture in pictures]) < 0.01


def test_what_a_move_leaves_empty_is_grey() -> None:
    white = torch.ones(1, 3, 10, 10)

    view = move(white, torch.tensor([matrix_of("translate_x", 0.5)]))

    torch.testing.assert_close(view[..., :5], white[..., :5])
    torch.testing.assert_close(view[..., 5:], torch.full((1, 3, 10, 5), 0.5))


def test_an_image_of_one_level_survives_the_stretching_operations() -> None:
    flat = torch.full((2, 3, 8, 8), 100 / 255)

    for operation in (automatic.autocontrast, automatic.equalize):
        torch.testing.assert_close(operation(flat.clone(), torch.zeros(2)), flat)


def draws_of(operation: str, *, level: float = 0.999, sign: float = 0.0) -> Tensor:
    number = (OPERATIONS.index(operation) + 0.5) / len(OPERATIONS)
    return torch.tensor([[number, level, sign, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "identity"])
def test_every_operation_can_be_drawn_and_changes_only_the_images_that_drew_it(name: str) -> None:
    view = to_view(make_pictures())
    draws = torch.cat([draws_of("identity"), draws_of(name), draws_of("identity")])

    changed = apply_operations(view.clone(), draws, "trivialaugment")

    assert torch.equal(changed[0], view[0]) and torch.equal(changed[2], view[2])
    assert (changed[1] - view[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "level", "sign", "expected"),
    [
        ("brightness", 0.999, 0.0, lambda view: automatic.brighten(view, torch.tensor([-0.99]))),
        ("brightness", 0.999, 0.9, lambda view: automatic.brighten(view, torch.tensor([0.99]))),
        ("brightness", 0.0, 0.9, lambda view: view),
        ("rotate", 0.999, 0.9, lambda view: move(view, torch.tensor([matrix_of("rotate", 135.0)]))),
        ("shear_y", 0.999, 0.0, lambda view: move(view, torch.tensor([matrix_of("shear_y", -0.99)]))),
        ("posterize", 0.999, 0.0, lambda view: automatic.posterize(view, torch.tensor([6.0]))),
        ("solarize", 0.5, 0.0, lambda view: automatic.solarize(view, torch.tensor([0.5]))),
    ],
)
def test_trivialaugment_goes_from_nothing_to_its_published_strength(
    name: str, level: float, sign: float, expected: Callable[[Tensor], Tensor]
) -> None:
    view = to_view(make_pictures(1))

    changed = apply_operations(view.clone(), draws_of(name, level=level, sign=sign), "trivialaugment")

    torch.testing.assert_close(changed, expected(view), atol=1e-5, rtol=0)


def test_randaugment_applies_two_operations_of_the_same_level() -> None:
    view = to_view(make_pictures(1))
    solarize, posterize = draws_of("solarize", level=0.1), draws_of("posterize", level=0.9)
    draws = torch.cat([solarize[:, :3], posterize[:, :3]], dim=1)

    changed = apply_operations(view.clone(), draws, "randaugment")

    first = automatic.solarize(view, torch.tensor([0.3]))
    torch.testing.assert_close(changed, automatic.posterize(first, torch.tensor([0.3 * 4])))
    assert OPERATION_POLICIES["randaugment"].num_operations == 2


@pytest.mark.parametrize("recipe", ["randaugment", "trivialaugment"])
def test_all_operations_are_drawn_about_equally_often(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def count(group: tuple[str, ...], numbers: Tensor) -> None:
        for name in group:
            number = OPERATIONS.index(name)
            counts[name] = counts.get(name, 0) + int((numbers == number).sum())

    monkeypatch.setattr(automatic, "_apply_group", lambda view, group, numbers, *rest: count(group, numbers))
    draws = torch.rand(14_000, 6, generator=torch.Generator().manual_seed(0))

    apply_operations(torch.zeros(14_000, 3, 1, 1), draws, recipe)  # type: ignore[arg-type]

    expected = 1000 * OPERATION_POLICIES[recipe].num_operations
    assert len(counts) == 13
    assert all(abs(number - expected) < 5 * expected**0.5 for number in counts.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "reference"), [("randaugment", "RandAugment"), ("trivialaugment", "TrivialAugmentWide")]
)
def test_the_strengths_are_torchvisions(recipe: str, reference: str) -> None:
    from torchvision.transforms import v2

    published = getattr(v2, reference)._AUGMENTATION_SPACE
    ours = {name.replace("_", ""): name for name in OPERATIONS} | {"color": "saturation"}
    chosen = OPERATION_POLICIES[recipe]

    assert len(published) == len(OPERATIONS)
    for title, (strengths, signed) in published.items():
        name, last = ours[title.lower()], strengths(automatic.NUM_LEVELS, 224, 224)
        if last is None:
            assert name not in chosen.largest
            continue
        highest = float(last[-1])
        expected = {
            "translate_x": highest / 224,
            "translate_y": highest / 224,
            "posterize": 8 - highest,
            "solarize": 1 - highest,
        }.get(name, highest)
        assert chosen.largest[name] == pytest.approx(expected)
        assert (name in automatic._SIGNED) == signed
