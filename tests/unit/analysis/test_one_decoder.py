"""Training and serving see the same pixels, whatever mode an image file has."""

from __future__ import annotations

import base64
import json
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.tracking.served_model import ServedClassifier
from contract.decoding import FULL_RANGE, DeepRange, Fit
from contract.model_layout import ModelPaths
from tests.odd_images import KINDS, write_image
from trainables.data.augmentation import evaluation_view
from trainables.images.decoding import decode_files

SIZE, STORAGE = 16, 20


class Pixels(torch.nn.Module):
    """A classifier whose probabilities are its input, one class a pixel and channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "pixels.pt2"
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    torch.export.save(
        torch.export.export(Pixels(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes), path
    )
    return path


DEEP_RANGES = {
    "12 bits of 16": DeepRange(0, 4095),
    "I of 8 bits": DeepRange(0, 255),
    "F up to 255": DeepRange(float_white=255),
    "F of degrees": DeepRange(float_black=-10, float_white=40),
}
"""What was measured in the data sets of these images."""


def serve(program: Path, folder: Path, content: bytes, fit: Fit, deep: DeepRange) -> np.ndarray:
    """The pixels that the served model's network sees, [3, SIZE, SIZE] in 0..1."""
    export = ModelPaths(folder / "model")
    export.directory.mkdir()
    export.program.symlink_to(program)
    names = [str(number) for number in range(3 * SIZE * SIZE)]
    card = {"classes": names, "image_size": SIZE, "storage_size": STORAGE, "fit": fit}
    card["deep_range"] = [] if deep == FULL_RANGE else list(astuple(deep))
    export.card.write_text(json.dumps(card), encoding="utf-8")
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export.directory)}))
    values = [content, base64.b64encode(content).decode("ascii")]
    first, second = model.predict(None, pd.DataFrame({"image": values}))["probabilities"]
    assert first == second
    return np.array([first[name] for name in names]).reshape(3, SIZE, SIZE)


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_same_pixels_in_training_and_serving(
    kind: str, fit: Fit, program: Path, tmp_path: Path
) -> None:
    path = write_image(tmp_path, kind)
    deep = DEEP_RANGES.get(kind, FULL_RANGE)
    stored, (fact,) = decode_files([path], STORAGE, fit, deep)
    trained = evaluation_view(torch.from_numpy(stored), size=SIZE, fit=fit)[0].numpy()

    served = serve(program, tmp_path, path.read_bytes(), fit, deep)

    assert fact.ok
    assert np.ptp(stored) > 60  # and over much of the range
    assert len(np.unique(stored)) > 1  # a gradient arrived, not one clipped colour
    np.testing.assert_array_equal(np.round(255 * served), np.round(255 * trained))
