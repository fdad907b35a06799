"""Two exported models become one program, which gives the merged probabilities for any number of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.model_layout import ModelPaths
from trainables.export.cascade import load_cascade
from trainables.export.program import make_program

CARD = {"image_size": 8, "fit": "crop", "storage_size": 9, "deep_range": []}


def write_model(folder: Path, num_classes: int, **changes: Any) -> tuple[ModelPaths, nn.Module]:
    torch.manual_seed(num_classes)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, num_classes), nn.Softmax(dim=1)
    ).eval()
    module = _Named(layers)
    paths = ModelPaths(folder)
    folder.mkdir()
    torch.export.save(make_program(module, 8), paths.program)
    paths.card.write_text(json.dumps({**CARD, "classes": list(range(num_classes)), **changes}))
    return paths, module


class _Named(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.layers(images)
        return probabilities


def test_the_program_of_two_programs_gives_the_merged_probabilities(tmp_path: Path) -> None:
    (first, one_or_rest), (second, others) = write_model(tmp_path / "a", 2), write_model(tmp_path / "b", 3)
    images = torch.rand(5, 3, 8, 8)

    cascade, shared = load_cascade(first, second, one=1, order=(1, 0, 2, 3))
    program = make_program(cascade, 8)
    torch.export.save(program, tmp_path / "both.pt2")
    found = torch.export.load(tmp_path / "both.pt2").module()(images)

    with torch.no_grad():
        own, rest = one_or_rest(images), others(images)
    expected = torch.stack(
        [own[:, 0] * rest[:, 0], own[:, 1], own[:, 0] * rest[:, 1], own[:, 0] * rest[:, 2]], 1
    )
    torch.testing.assert_close(found, expected)
    assert shared == {**CARD, "licences": {}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_size": 9}, "image_size 8 and 9; search one of them again with the other's --image-size"),
        ({"fit": "pad"}, "fit crop and pad; search one of them again with the other's --fit"),
        ({"classes": [0]}, "have 2 and 1 classes, which are not those of their studies"),
    ],
)
def test_models_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    first, second = write_model(tmp_path / "a", 2)[0], write_model(tmp_path / "b", 3, **changes)[0]

    with pytest.raises(ValueError, match=expected):
        load_cascade(first, second, one=0, order=(0, 1, 2, 3))


def test_a_missing_or_damaged_model_is_named(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a", 2)[0], write_model(tmp_path / "b", 3)[0]

    second.program.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"is missing or damaged: run finalize.py on its study again"):
        load_cascade(first, second, one=0, order=(0, 1, 2, 3))
    second.card.unlink()
    with pytest.raises(ValueError, match=r"holds no model: run finalize.py on its study first"):
        load_cascade(first, second, one=0, order=(0, 1, 2, 3))
