"""The served classifier: an MLflow model from code, which is copied beside the weights and the decoder.

Input: a table with a column `image`, each value the bytes of an image file or their base64 text, of either
alphabet, with or without line breaks, padding and a data: prefix.
Output: label, its probability, the probability of every class by name, and what is wrong with the image, if
anything is; an image that cannot be read has no label, and costs the others nothing. Of a model with a rule
for unknown classes also `known`: false where the image looks like none of the classes.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import mlflow
import numpy as np
import pandas as pd

from contract.decoding import FULL_RANGE, DeepRange, Fit, UnreadableImage, decode_square
from contract.unknown_score import ENTROPY, PROBABILITY, score_probabilities

if TYPE_CHECKING:
    import torch

Pixels = np.ndarray[Any, Any]

BATCH = 32
OUTPUTS = ["label", "probability", "probabilities", "error"]


def read_image(
    value: bytes | str, *, image_size: int, storage_size: int, fit: Fit, deep: DeepRange = FULL_RANGE
) -> Pixels:
    """Decode to float32 [3, image_size, image_size] in 0..1, in the same steps as the search's evaluation.

    Raises:
        ValueError: the value is no base64 text, or the bytes are no image.
    """
    try:
        content = _decode_text(value) if isinstance(value, str) else _take_bytes(value)
        square = decode_square(content, size=storage_size, fit=fit, deep=deep).pixels
    except (binascii.Error, UnreadableImage, TypeError) as error:
        raise ValueError(f"'image' wants the bytes of an image file, or their base64: {error}") from error
    if fit != "crop":
        square = _resize(square, image_size)
    else:
        margin = (storage_size - image_size) // 2
        square = square[margin : margin + image_size, margin : margin + image_size]
    return (square.astype(np.float32) / 255.0).transpose(2, 0, 1)


def _decode_text(text: str) -> bytes:
    """Decode base64 as browsers, mail programs and `base64` write it.

    Raises:
        binascii.Error: the text is no base64.
    """
    if text.lstrip()[:5].lower() == "data:":
        text = unquote(text.partition(",")[2])
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _take_bytes(value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"got {type(value).__name__}")
    return bytes(value)


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
        self._unknown = (facts.get("thresholds") or {}).get("unknown")
        self._outputs = [*OUTPUTS, "known"] if self._unknown else OUTPUTS
        self._scorer: torch.nn.Module | None = None
        if self._unknown and self._unknown["score"] not in (PROBABILITY, ENTROPY):
            self._scorer = torch.export.load(export / "unknown.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row an image, in the order of the input.

        Raises:
            ValueError: not one of the images can be read.
        """
        images = list(pd.DataFrame(model_input)["image"])
        rows = [
            row for i in range(0, len(images), BATCH) for row in self._predict_batch(images[i : i + BATCH])
        ]
        wrong = [row["error"] for row in rows if row["error"]]
        if wrong and len(wrong) == len(rows):
            raise ValueError(wrong[0])
        return pd.DataFrame(rows, columns=self._outputs, dtype=object)  # JSON has null for None, and no NaN

    def _predict_batch(self, images: list[bytes | str]) -> list[dict[str, Any]]:
        import torch

        rows: list[dict[str, Any]] = [dict.fromkeys(self._outputs) for _ in images]
        prepared = []
        for row, image in zip(rows, images, strict=True):
            try:
                prepared.append(read_image(image, **self._view))
            except ValueError as error:
                row["error"] = str(error)
        if not prepared:
            return rows
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(prepared))
            probabilities = self._network(pixels)
            known = iter(self._tell_known(pixels, probabilities))
        found = iter(probabilities.tolist())
        for row in rows:
            if row["error"] is None:
                each = dict(zip(self._classes, next(found), strict=True))
                label = max(each, key=each.__getitem__)
                row |= {"label": label, "probability": each[label], "probabilities": each}
                if self._unknown:
                    row["known"] = next(known)
        return rows

    def _tell_known(self, pixels: torch.Tensor, probabilities: torch.Tensor) -> list[bool | None]:
        """Tell which images look like one of the classes; None where too few images set no threshold."""
        if not self._unknown or self._unknown["threshold"] is None:
            return [None] * len(pixels)
        if self._scorer is not None:
            scores = self._scorer(pixels, probabilities).numpy()
        else:
            logarithms = np.log(np.maximum(probabilities.numpy(), np.finfo(np.float32).tiny))
            scores = score_probabilities(logarithms, self._unknown["score"])
        return [bool(one >= self._unknown["threshold"]) for one in scores]


mlflow.models.set_model(ServedClassifier())
