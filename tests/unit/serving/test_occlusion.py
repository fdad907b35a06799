"""Occlusion finds the part of an image that a model's answer rests on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from contract.decoding import GROUND, Floats
from contract.model_layout import ModelPaths
from serving.model import Model, load_model
from serving.server.occlusion import explain

SIZE = 32
CLASSES = ["nothing", "a red thing"]


class RedThing(torch.nn.Module):
    """Sees a red thing where red stands far above green in a few neighbouring pixels, wherever that is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        redness = torch.nn.functional.avg_pool2d(images[:, 0] - images[:, 1], 4)
        score = 20 * (redness.amax(dim=(1, 2)) - 0.4)
        return torch.stack([-score, score], dim=1).softmax(dim=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    paths = ModelPaths(tmp_path_factory.mktemp("model"))
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(RedThing(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes)
    torch.export.save(program, paths.program)
    card = {"classes": CLASSES, "image_size": SIZE, "storage_size": SIZE, "fit": "crop"}
    paths.card.write_text(json.dumps(card), encoding="utf-8")
    return load_model(paths)


def thing_at(row: int, column: int, *, size: int = 8) -> Floats:
    """Grey, with a red square that fills one cell of the grid."""
    image = np.full((3, SIZE, SIZE), 0.5, np.float32)
    cell = SIZE // size
    image[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = [[[1.0]], [[0.0]], [[0.0]]]
    return image


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (7, 2), (7, 7)])
def test_the_largest_drop_is_where_the_object_is(model: Model, row: int, column: int) -> None:
    found = explain(model, thing_at(row, column))

    grid = np.array(found["grid"])
    assert (found["label"], found["size"]) == ("a red thing", 8)
    assert grid[row, column] == grid.max() > 0.9
    far = np.abs(np.indices((8, 8)) - np.array([row, column])[:, None, None]).max(axis=0) > 1
    assert np.abs(grid[far]).max() < 1e-6


def test_the_other_class_gains_where_the_object_is_covered(model: Model) -> None:
    found = explain(model, thing_at(2, 2), label="nothing")

    assert found["probability"] < 0.1
    assert np.array(found["grid"]).min() == found["grid"][2][2] < -0.9


def test_an_even_image_rests_on_no_part_of_it(model: Model) -> None:
    ground = np.broadcast_to((np.array(GROUND, np.float32) / 255)[:, None, None], (3, SIZE, SIZE))

    assert np.abs(explain(model, ground.copy())["grid"]).max() == 0


def test_the_image_is_not_changed_and_the_answer_is_plain_json(model: Model) -> None:
    image = thing_at(1, 1)
    before = image.copy()

    text = json.dumps(explain(model, image, size=5))

    assert np.array_equal(image, before)
    assert [len(row) for row in json.loads(text)["grid"]] == [5] * 5


@pytest.mark.parametrize(
    ("wish", "said"), [({"label": "cat"}, "no class 'cat'"), ({"size": 33}, "from 1 to 32")]
)
def test_what_cannot_be_explained_is_refused(model: Model, wish: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        explain(model, thing_at(0, 0), **wish)  # type: ignore[arg-type]
