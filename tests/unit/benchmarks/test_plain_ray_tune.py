"""The plain search that we compare against does what its configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.versus_plain import plain_ray_tune


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "first"), [(0, "classifier"), (1, "blocks.6"), (2, "blocks.5"), (8, "conv_stem")]
)
def test_the_top_stages_and_the_head_train(depth: int, first: str) -> None:
    model = plain_ray_tune.make_model(5, unfreeze_depth=depth, dropout=0.0)
    plain_ray_tune.set_training(model)

    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    assert trainable[0].startswith(first)
    assert trainable[-1].startswith("classifier")
    assert model.bn1.training == (depth == 8)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "flip", "light", "medium"])
def test_a_loader_gives_normalised_images_of_the_size_asked_for(tmp_path: Path, policy: str) -> None:
    for label in range(3):
        Image.new("RGB", (90, 70), (80 * label,) * 3).save(tmp_path / f"{label}.png")
    rows = [[str(tmp_path / f"{label}.png"), label] for label in range(3)]

    (images, labels) = next(iter(plain_ray_tune.make_loader(rows, policy, 64, 3, shuffle=False)))

    assert tuple(images.shape) == (3, 3, 64, 64)
    assert labels.tolist() == [0, 1, 2]
    assert images.abs().max() <= 1
