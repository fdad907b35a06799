"""The resizing of a served model gives the bytes that the search evaluated with."""

import numpy as np
import pytest
import torch

from contract.image_resize import resize


@pytest.mark.parametrize(
    ("old", "new"), [(80, 64), (160, 128), (239, 224), (249, 233), (512, 480), (171, 137), (30, 45), (64, 64)]
)
def test_resized_bytes_are_those_of_torch(old: int, new: int) -> None:
    picture = np.random.default_rng(old).integers(0, 256, (old, old, 3), dtype=np.uint8)
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]

    wanted = torch.nn.functional.interpolate(planes, (new, new), mode="bilinear", antialias=True)

    np.testing.assert_array_equal(resize(picture, new), wanted[0].permute(1, 2, 0).numpy())
