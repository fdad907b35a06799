"""int8 is calibrated on training images alone, and leaves first layers and heads in floating point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from contract.messages import StudySettings
from tests.tiny_data import make_settings
from trainables.activations.shared import load_splits
from trainables.export import int8_program
from trainables.export.int8_program import CalibrationImages, find_first_convolutions, write_int8
from trainables.export.onnx_program import load_onnx, write_onnx
from trainables.export.program import make_program


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("study"), fits=("crop",))


class TwoBranches(nn.Module):
    """Two small networks whose probabilities are averaged, as in an ensemble."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU6(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second = (branch(images).softmax(dim=1) for branch in self.branches)
        return (first + second) / 2


def test_the_ranges_are_taken_from_a_stated_number_of_training_images(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_program, "NUM_IMAGES", 5)
    monkeypatch.setattr(int8_program, "BATCH", 2)
    reader = CalibrationImages(settings, fit="crop")

    batches = [reader.get_next() for _ in range(4)]
    reader.rewind()

    assert [None if one is None else one["images"].shape for one in batches] == [
        (2, 3, 32, 32), (2, 3, 32, 32), (1, 3, 32, 32), None,
    ]  # fmt: skip
    assert reader.split.digest == load_splits(settings, "crop", torch.device("cpu"))["train"].digest
    again = reader.get_next()
    assert again is not None and batches[0] is not None
    assert np.array_equal(again["images"], batches[0]["images"])


def test_first_convolutions_of_every_branch_and_heads_stay_in_floating_point(
    settings: StudySettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = make_program(TwoBranches().eval(), 32)
    torch.export.save(program, tmp_path / "classifier.pt2")
    source, target = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    write_onnx(tmp_path / "classifier.pt2", source, output="probabilities", metadata={})

    number = write_int8(source, target, settings=settings, fit="crop")

    assert number == len(load_splits(settings, "crop", torch.device("cpu"))["train"])
    assert len(find_first_convolutions(onnx.load(source))) == 2
    graph = onnx.load(target).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    weights = [made_by.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    assert sorted(weights, key=str) == sorted(["DequantizeLinear", "DequantizeLinear", None, None], key=str)
    assert all(
        made_by.get(node.input[1]) is None for node in graph.node if node.op_type in ("Gemm", "MatMul")
    )
    images = torch.rand(7, 3, 32, 32)
    found = load_onnx(target)(images)
    assert (found - load_onnx(source)(images)).abs().max() < 0.02
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert capfd.readouterr() == ("", "")


def test_what_onnxruntime_cannot_read_is_told_in_a_line(settings: StudySettings, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"no model")

    with pytest.raises(ValueError, match=r"onnxruntime cannot write this model in int8: .+"):
        write_int8(source, tmp_path / "model.int8.onnx", settings=settings, fit="crop")
