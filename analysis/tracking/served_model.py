"""The served classifier: an MLflow model from code, which is copied beside the weights and the decoder.

Input: a table with a column `image`, each value the bytes of an image file or their base64 text.
Output: label, its probability, and the probability of every class by name.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd

from contract.decoding import FULL_RANGE, DeepRange, Fit, UnreadableImage, decode_square

if TYPE_CHECKING:
    import torch

Pixels = np.ndarray[Any, Any]

BATCH = 32


def read_image(
    value: bytes | str, *, image_size: int, storage_size: int, fit: Fit, deep: DeepRange = FULL_RANGE
) -> Pixels:
    """Decode to float32 [3, image_size, image_size] in 0..1, in the same steps as the search's evaluation.

    Raises:
        ValueError: the value is no base64 text, or the bytes are no image.
    """
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        square = decode_square(content, size=storage_size, fit=fit, deep=deep).pixels
    except (binascii.Error, UnreadableImage, TypeError) as error:
        raise ValueError(f"'image' wants the bytes of an image file, or their base64: {error}") from error
    if fit != "crop":
        square = _resize(square, image_size)
    else:
        margin = (storage_size - image_size) // 2
        square = square[margin : margin + image_size, margin : margin + image_size]
    return (square.astype(np.float32) / 255.0).transpose(2, 0, 1)


def _resize(square: Pixels, size: int) -> Pixels:
    """Resize bytes [S, S, 3] with torch, as the search does: Pillow's bilinear filter rounds differently."""
    import torch

    planes = torch.from_numpy(square.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    pixels: Pixels = resized[0].permute(1, 2, 0).numpy()
    return pixels


class ServedClassifier(mlflow.pyfunc.PythonModel):
    """Runs the exported program, whose directory is the artifact `export`."""

    def load_context(self, context: Any) -> None:
        """Load the program; MLflow calls it once, in the serving process."""
        import torch

        export = Path(context.artifacts["export"])
        facts = json.loads((export / "export.json").read_text(encoding="utf-8"))
        self._classes = [str(name) for name in facts["classes"]]
        self._view = {name: facts[name] for name in ("image_size", "storage_size", "fit")}
        self._view["deep"] = DeepRange(*facts.get("deep_range", ()))
        self._network: torch.nn.Module = torch.export.load(export / "classifier.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row an image, in the order of the input."""
        images = list(pd.DataFrame(model_input)["image"])
        chunks = [self._predict_batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        probabilities = np.concatenate([np.empty((0, len(self._classes)), np.float32), *chunks])
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [self._classes[i] for i in best],
                "probability": probabilities.max(axis=1, initial=0.0).astype(float),
                "probabilities": [
                    dict(zip(self._classes, row.tolist(), strict=True)) for row in probabilities
                ],
            }
        )

    def _predict_batch(self, images: list[bytes | str]) -> Pixels:
        import torch

        prepared = np.stack([read_image(image, **self._view) for image in images])
        with torch.inference_mode():
            probabilities: Pixels = self._network(torch.from_numpy(prepared)).numpy()
        return probabilities


mlflow.models.set_model(ServedClassifier())
