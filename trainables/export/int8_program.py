"""Writes an ONNX program in whole numbers of 8 bits, calibrated on training images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contract.decoding import Fit
from contract.files import first_line
from contract.messages import StudySettings
from trainables.activations.shared import load_splits
from trainables.export.onnx_program import quiet
from trainables.images.split_view import ViewSettings

NUM_IMAGES = 256
"""Training images that the ranges of the activations are taken from, drawn by the study's seed."""

BATCH = 16

OPERATIONS = ("Conv", "Clip", "Relu", "Add")
"""Operations in whole numbers: convolutions with the activation that ends their range, and sums of blocks.

Heads, pooling and the softmax stay in floating point: they take next to no time, and a probability of 1/255
is too coarse. Without the activation a convolution's range would be that of what is cut off.
"""


def write_int8(source: Path, target: Path, *, settings: StudySettings, fit: Fit) -> int:
    """Write the program with weights of 8 bits by channel, and activations of 8 bits, in QDQ form.

    Returns:
        How many images the ranges were taken from.

    Raises:
        ValueError: onnxruntime cannot quantize the model.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = CalibrationImages(settings, fit=fit)
    with TemporaryDirectory(dir=target.parent, prefix=".", suffix=".part") as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATIONS),
                nodes_to_exclude=find_first_convolutions(onnx.load(prepared)),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                # The mean of the batches' ranges, so that one odd image does not make all others coarse.
                extra_options={"CalibMovingAverage": True},
            )
        except Exception as error:  # onnxruntime's own kinds
            raise ValueError(f"onnxruntime cannot write this model in int8: {first_line(error)}") from error
    return len(reader.positions)


def find_first_convolutions(model: Any) -> list[str]:
    """Names of the convolutions that see the images themselves; they stay in floating point.

    Pixels and weights of the first layer bear rounding least, and it is a small part of the time.
    """
    behind: set[str] = set()  # names of values that a convolution has gone into
    found = []
    for node in model.graph.node:  # in an order in which each comes after what it takes
        is_behind = not behind.isdisjoint(node.input)
        if node.op_type == "Conv" and not is_behind:
            found.append(node.name)
        if node.op_type == "Conv" or is_behind:
            behind.update(node.output)
    return found


class CalibrationImages:
    """Training images as the model sees them, batch by batch, as onnxruntime asks for them."""

    def __init__(self, settings: StudySettings, *, fit: Fit) -> None:
        self.split = load_splits(settings, fit, torch.device("cpu"), ("train",))["train"]
        self.view = ViewSettings(policy="none", image_size=settings.image_size, fit=fit, seed=settings.seed)
        drawn = np.random.default_rng(settings.seed).permutation(len(self.split))[:NUM_IMAGES]
        self.positions: NDArray[np.int64] = np.sort(drawn)
        self.rewind()

    def rewind(self) -> None:
        self._batches = self._read()

    def get_next(self) -> dict[str, Any] | None:
        """The next batch as the model's input, or None at the end."""
        return next(self._batches, None)

    def _read(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.positions), BATCH):
            rows = self.positions[start : start + BATCH]
            images = self.view.images(self.split, rows, epoch=0, device=torch.device("cpu"))
            yield {"images": images.contiguous().numpy()}
