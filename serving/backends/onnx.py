"""The programs as ONNX, run by onnxruntime without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from contract.decoding import Floats
from contract.model_answers import needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxBackend:
    """Runs an ONNX program, and unknown.onnx where the card needs it."""

    def __init__(
        self,
        model: ModelPaths,
        card: ModelCard,
        program: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        providers = _choose_providers(device)
        self._classify = _load(program, providers, threads)
        self._score = _load(model.unknown_onnx, providers, threads) if needs_scores(card) else None

    def probabilities(self, images: Floats) -> Floats:
        """Probabilities [N, classes] of images [N, 3, S, S] in [0, 1]."""
        found: Floats = self._classify.run(None, {"images": np.ascontiguousarray(images)})[0]
        return found

    def scores(self, images: Floats, probabilities: Floats) -> Floats:
        """Scores [N], low for images of unknown classes."""
        assert self._score is not None
        given = {"images": np.ascontiguousarray(images), "probabilities": np.ascontiguousarray(probabilities)}
        found: Floats = self._score.run(None, given)[0]
        return found


def _choose_providers(device: str) -> list[Any]:
    """Name onnxruntime's providers for a device: "cpu", "cuda", "cuda:1" or "auto".

    Raises:
        ValueError: onnxruntime is not installed, or has no such device.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            "onnxruntime is not installed: pip install onnxruntime, or 'unfreeze[onnx]'"
        ) from None
    has_gpu = CUDA in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_gpu):
        return [CPU]
    kind, _, number = device.partition(":")
    if device != "auto" and (kind != "cuda" or (number and not number.isdecimal())):
        raise ValueError(f"--device {device}: cpu, cuda, cuda:1 or auto")
    if not has_gpu:
        raise ValueError(
            f"--device {device}: this onnxruntime computes on the CPU alone: pip install onnxruntime-gpu, or "
            "use --device cpu"
        )
    return [(CUDA, {"device_id": int(number or 0)}), CPU]


def _load(path: Path, providers: list[Any], threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are of graph rewriting, which is its own affair
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # what a damaged file raises is onnxruntime's own choice
        raise ValueError(
            f"{path} is missing or damaged, or of a newer onnxruntime: export it again"
        ) from error
