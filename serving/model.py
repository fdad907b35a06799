"""Loads an exported model in one of its formats, and answers for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np

from contract.decoding import Floats, UnreadableImage
from contract.files import did_you_mean
from contract.model_answers import DEFAULT_COVERAGE, ImageAnswer, answer, needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from contract.study_layout import StudyPaths, is_study, study_directories


class Format(StrEnum):
    """Formats of an exported model; the values are what users type."""

    PT2 = "pt2"
    ONNX = "onnx"
    INT8 = "int8"
    TIMM = "timm"


class Backend(Protocol):
    """A program of one format, loaded."""

    def probabilities(self, images: Floats) -> Floats:
        """Probabilities [N, classes] of images [N, 3, S, S] in [0, 1]."""

    def scores(self, images: Floats, probabilities: Floats) -> Floats:
        """Scores [N] of the program for unknown classes; called only for cards that need them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """An exported model, ready to answer."""

    paths: ModelPaths
    card: ModelCard
    format: Format
    backend: Backend

    def predict(self, images: Floats, *, coverage: float = DEFAULT_COVERAGE) -> list[ImageAnswer]:
        """Answer for images [N, 3, S, S] in [0, 1], as `ModelCard.read_image` makes them.

        Raises:
            ValueError: the card has no prediction sets of this coverage.
        """
        if not len(images):
            return []
        return answer(self.card, *self.compute(images), coverage=coverage)

    def compute(self, images: Floats) -> tuple[Floats, Floats | None]:
        """Compute probabilities [N, classes] of images, and the scores [N] that unknown classes need."""
        probabilities = self.backend.probabilities(images)
        scores = self.backend.scores(images, probabilities) if needs_scores(self.card) else None
        return probabilities, scores

    def classify(
        self, contents: Sequence[bytes | Path], *, coverage: float = DEFAULT_COVERAGE
    ) -> list[ImageAnswer | str]:
        """Answer for image files, in their order; for one that cannot be read, say why in a line.

        Raises:
            ValueError: the card has no prediction sets of this coverage.
        """
        read: list[Floats | str] = [self.read(one) for one in contents]
        images = [one for one in read if not isinstance(one, str)]
        answers = iter(self.predict(np.stack(images), coverage=coverage) if images else [])
        return [one if isinstance(one, str) else next(answers) for one in read]

    def read(self, content: bytes | Path) -> Floats | str:
        """Read an image [3, S, S]; of one that cannot be read, say why in a line."""
        try:
            return self.card.read_image(content)
        except (UnreadableImage, OSError) as error:
            return str(error)


def find_model(name: str, *, runs_dir: Path = Path("runs")) -> ModelPaths:
    """Find a model by the name of its study, the study's directory, or its own directory.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    for place in (Path(name), runs_dir / name):
        if is_study(place):
            model = StudyPaths(place).model
            if model.card.is_file():
                return model
            raise ValueError(f"study {place.name} has no model yet: run its search to an end, or finalize.py")
        if ModelPaths(place).card.is_file():
            return ModelPaths(place)
    known = [study.name for study in study_directories(runs_dir) if StudyPaths(study).model.card.is_file()]
    hint = did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "")
    raise ValueError(
        f"{name} is neither a model's directory nor a study with a model under {runs_dir}"
        + (f": {hint}" if hint else "")
    )


def find_formats(model: ModelPaths) -> list[Format]:
    """List the formats that a model's directory has."""
    return [one for one in Format if list_programs(model, one)[0].is_file()]


def list_programs(model: ModelPaths, format: Format) -> list[Path]:
    """List the files that decide a model's answers in a format, beside its card; the first is always there.

    That for unknown classes is there only if the card needs it.
    """
    return {
        Format.PT2: [model.program, model.unknown],
        Format.ONNX: [model.onnx, model.unknown_onnx],
        Format.INT8: [model.int8, model.unknown_onnx],
        Format.TIMM: [model.timm / "model.safetensors", model.timm / "config.json", model.unknown],
    }[format]


def load_model(
    model: ModelPaths, format: Format = Format.PT2, *, device: str = "auto", threads: int | None = None
) -> Model:
    """Load a model in one of its formats.

    Args:
        device: "cpu", "cuda", "cuda:1" or "auto", a GPU where there is one that can be used.
        threads: of the computation on a CPU; None leaves it to the library.

    Raises:
        ValueError: the model is missing or damaged, lacks this format, or the format lacks its library.
    """
    card = ModelCard.load(model)
    if format not in find_formats(model):
        raise ValueError(_say_lacking(model, format))
    return Model(paths=model, card=card, format=format, backend=_load(model, card, format, device, threads))


def _load(model: ModelPaths, card: ModelCard, format: Format, device: str, threads: int | None) -> Backend:
    if format is Format.PT2:
        from serving.backends.program import ProgramBackend

        return ProgramBackend(model, card, device=device, threads=threads)
    if format is Format.TIMM:
        from serving.backends.timm_folder import TimmBackend

        return TimmBackend(model, card, device=device, threads=threads)
    from serving.backends.onnx import OnnxBackend

    program = model.onnx if format is Format.ONNX else model.int8
    return OnnxBackend(model, card, program, device=device, threads=threads)


def _say_lacking(model: ModelPaths, format: Format) -> str:
    there = ", ".join(find_formats(model)) or "none"
    return f"{model.directory} has no {format}, but {there}: `finalize.py STUDY --export {format}` adds it"
