"""The served classifier: an MLflow model from code, one self-contained file, copied beside the weights.

Input: a table with a column `image`, each value the bytes of an image file or their base64 text.
Output: label, its probability, and the probability of every class by name.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    import torch

Pixels = np.ndarray[Any, Any]

BATCH = 32
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(value: bytes | str, *, image_size: int, storage_size: int, fit: str) -> Pixels:
    """Float32 [3, image_size, image_size] in 0..1: the evaluation view of the search, step by step the same.

    Raises:
        ValueError: the value is no base64 text, or the bytes are no image.
    """
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        square = _make_square(content, storage_size, fit)
    except (binascii.Error, OSError, TypeError, SyntaxError) as error:
        raise ValueError(f"'image' wants the bytes of an image file, or their base64: {error}") from error
    if fit == "squash":
        square = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
    else:
        margin = (storage_size - image_size) // 2
        square = square.crop((margin, margin, margin + image_size, margin + image_size))
    return (np.asarray(square, dtype=np.float32) / 255.0).transpose(2, 0, 1)


def _make_square(content: bytes, size: int, fit: str) -> Image.Image:
    """Upright RGB: the middle square, or with "squash" everything, resized to `size`."""
    with Image.open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        image.draft(None, (size, size))
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (0, 0, width, height) if fit == "squash" else (left, top, left + side, top + side)
        square = _to_rgb(image).resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return square.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else square


def _to_rgb(image: Image.Image) -> Image.Image:
    """Transparency becomes white, 16-bit grey is scaled to 8."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257 + 0.5).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        overlay = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")


class ServedClassifier(mlflow.pyfunc.PythonModel):
    """Reads an export directory: classifier.pt2 and export.json."""

    def load_context(self, context: Any) -> None:
        """Called once by MLflow, in the serving process."""
        import torch

        export = Path(context.artifacts["export"])
        facts = json.loads((export / "export.json").read_text(encoding="utf-8"))
        self._classes = [str(name) for name in facts["classes"]]
        self._view = {name: facts[name] for name in ("image_size", "storage_size", "fit")}
        self._network: torch.nn.Module = torch.export.load(export / "classifier.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row an image, in the order of the input."""
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
