"""One replica of a served model: a process that loads it and answers batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.decoding import Floats, UnreadableImage
from contract.model_answers import answer, needs_scores
from contract.model_layout import ModelPaths
from serving.model import Format, Model, load_model
from serving.server.batches import Batches
from serving.server.bodies import check_header


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """What a replica is told of its model."""

    directory: str
    version: str
    format: Format
    device: str
    threads: int
    most_pixels: int
    most_batch: int
    """Images of a batch at most."""


class ModelReplica:
    """Answers requests with one model; requests that come together are computed together."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        # Threads of OpenMP belong to the thread that asks for them: one alone computes, from loading on.
        self._computer = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._model: Model = self._computer.submit(_load, settings).result()
        self._sizes: list[int] = []
        self._batches: Batches[bytes, Floats | str, _Found | str] = Batches(
            self._read,
            self._compute,
            most=settings.most_batch,
            readers=ThreadPoolExecutor(settings.threads, thread_name_prefix="decode"),
            computer=self._computer,
            on_batch=self._sizes.append,
        )

    async def classify(self, contents: Sequence[bytes], coverage: float) -> dict[str, Any]:
        """Answer for files.

        The reply has `rows`, of each image its values or why it cannot be read, and `batches`, the sizes of
        the batches that were computed since the last reply.
        """
        found = await self._batches.add(contents)
        known = [one for one in found if not isinstance(one, str)]
        answers = iter(self._answer(known, coverage) if known else [])
        rows = [one if isinstance(one, str) else next(answers) for one in found]
        batches, self._sizes[:] = list(self._sizes), []
        return {"rows": rows, "batches": batches}

    async def explain(self, content: bytes, label: str | None) -> dict[str, Any] | str:
        """Tell what the model looked at; of an image that cannot be read, why."""
        try:
            from serving.server.occlusion import explain
        except ModuleNotFoundError:
            raise NotImplementedError("this server has no explanations") from None

        def work() -> dict[str, Any] | str:
            image = self._read(content)
            return image if isinstance(image, str) else explain(self._model, image, label=label)

        return await asyncio.get_running_loop().run_in_executor(self._computer, work)

    def _read(self, content: bytes) -> Floats | str:
        try:
            check_header(content, most_pixels=self._settings.most_pixels)
            return self._model.read(content)
        except UnreadableImage as error:
            return str(error)
        except (
            Exception,
            MemoryError,
        ) as error:  # a decoder may raise anything: this image is told to be bad
            return " ".join(str(error).split()) or type(error).__name__

    def _compute(self, read: list[Floats | str]) -> list[_Found | str]:
        images = [one for one in read if not isinstance(one, str)]
        if not images:
            return [one for one in read if isinstance(one, str)]
        found = iter(_compute(self._model, np.stack(images)))
        return [one if isinstance(one, str) else next(found) for one in read]

    def _answer(self, found: Sequence[_Found], coverage: float) -> list[dict[str, Any]]:
        card = self._model.card
        probabilities = np.stack([one.probabilities for one in found])
        scores = np.array([one.score for one in found], dtype=np.float32) if needs_scores(card) else None
        return [one.as_values() for one in answer(card, probabilities, scores, coverage=coverage)]


@dataclass(frozen=True, eq=False)
class _Found:
    probabilities: Floats
    score: float | None
    """Score of the program for unknown classes, for a card that needs it."""


def _load(settings: ReplicaSettings) -> Model:
    paths = ModelPaths(Path(settings.directory))
    model = load_model(paths, settings.format, device=settings.device, threads=settings.threads)
    if paths.digest() != settings.version:
        raise ValueError(
            f"{paths.directory} holds another version by now: POST /models/NAME/reload serves it"
        )
    _compute(model, np.zeros((1, 3, model.card.image_size, model.card.image_size), dtype=np.float32))
    return model


def _compute(model: Model, images: Floats) -> list[_Found]:
    probabilities, scores = model.compute(images)
    if scores is None:
        return [_Found(row, None) for row in probabilities]
    return [_Found(row, float(score)) for row, score in zip(probabilities, scores, strict=True)]
