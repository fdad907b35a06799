"""The served classifier: an MLflow model from code, which is copied beside the weights and the decoder.

Input: a table with a column `image`, each value the bytes of an image file or their base64 text, of either
alphabet, with or without line breaks, padding and a data: prefix.
Output: label, its probability, the class that comes next with its own, the probability of every class by
name, and what is wrong with the image, if anything is; an image that cannot be read has no label, and costs
the others nothing. Of a model with prediction sets also `set`: the classes probable enough that it holds the
true one of 90 % of new images. Of a model with a rule for unknown classes also `known`: false where the
image looks like none of the classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd

from contract.model_answers import answer, decode_base64, needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths

if TYPE_CHECKING:
    from contract.decoding import Floats

BATCH = 32
OUTPUTS = ("label", "probability", "second", "second_probability", "probabilities", "error")


class ServedClassifier(mlflow.pyfunc.PythonModel):
    """Runs the exported program, whose directory is the artifact `export`."""

    def load_context(self, context: Any) -> None:
        """Load the program; MLflow calls it once, in the serving process."""
        import torch

        export = ModelPaths(Path(context.artifacts["export"]))
        self._card = ModelCard.load(export)
        self._network: torch.nn.Module = torch.export.load(export.program).module()
        self._scorer: torch.nn.Module | None = None
        if needs_scores(self._card):
            self._scorer = torch.export.load(export.unknown).module()
        self._outputs = [*OUTPUTS, *list_further_outputs(self._card)]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row an image, in the order of the input.

        Raises:
            ValueError: not one of the images can be read.
        """
        images = list(pd.DataFrame(model_input)["image"])
        rows = [
            row for i in range(0, len(images), BATCH) for row in self._predict_batch(images[i : i + BATCH])
        ]
        wrong = [row["error"] for row in rows if "error" in row]
        if wrong and len(wrong) == len(rows):
            raise ValueError(wrong[0])
        complete = [{name: row.get(name) for name in self._outputs} for row in rows]
        return pd.DataFrame(complete, columns=self._outputs, dtype=object)  # JSON has null for None, not NaN

    def _predict_batch(self, images: list[bytes | str]) -> list[dict[str, Any]]:
        import torch

        read = [self._read(image) for image in images]
        pixels = [one for one in read if not isinstance(one, str)]
        if not pixels:
            return [{"error": one} for one in read]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(pixels))
            probabilities = self._network(batch)
            scores = None if self._scorer is None else self._scorer(batch, probabilities).numpy()
        answers = iter(answer(self._card, probabilities.numpy(), scores))
        return [{"error": one} if isinstance(one, str) else next(answers).as_values() for one in read]

    def _read(self, value: object) -> Floats | str:
        """Read an image [3, S, S]; of one that cannot be read, say why in a line."""
        try:
            return read_value(self._card, value)
        except ValueError as error:
            return str(error)


def list_further_outputs(card: ModelCard) -> list[str]:
    """Name the outputs that only some models have."""
    return ["set"] * bool(card.set_thresholds) + ["known"] * (card.unknown is not None)


def read_value(card: ModelCard, value: object) -> Floats:
    """Decode the value of a request to float32 [3, S, S] in [0, 1], as the search did to evaluate.

    Raises:
        ValueError: the value is no base64 text, or the bytes are no image.
    """
    try:
        return card.read_image(_take_bytes(value))
    except ValueError as error:
        raise ValueError(f"'image' wants the bytes of an image file, or their base64: {error}") from error


def _take_bytes(value: object) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ValueError: the value is neither bytes nor base64 text.
    """
    if isinstance(value, str):
        return decode_base64(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ValueError(f"got {type(value).__name__}")


mlflow.models.set_model(ServedClassifier())
