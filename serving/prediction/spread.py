"""Predicts photos on a Ray cluster, through Ray Data's map_batches.

Photos go out in parts of PHOTOS_AT_ONCE, so that neither this process nor Ray's store holds a list of all,
and come back in their order, so that a killed run goes on as one on this machine does. Every worker loads the
model once a part; the model travels to it, but the photos must be readable where the workers are: in a bucket
or on a file system that all nodes see.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.data

import contract
import serving
from contract.files import first_line
from contract.model_answers import ImageAnswer
from contract.model_layout import ModelPaths
from serving.model import Format, load_model
from serving.prediction.batches import BatchSize, predict_photos
from serving.prediction.photos import Photo

PHOTOS_AT_ONCE = 100_000
DEFAULT_BATCH = 32
"""Photos that a worker gets at once; of these it makes batches of its own."""

_PROJECT = tuple(str(Path(package.__path__[0])) for package in (contract, serving))


def predict_on_cluster(
    model: ModelPaths,
    format: Format,
    photos: Iterator[Photo],
    *,
    address: str,
    coverage: float,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Generator[tuple[Photo, ImageAnswer | str], None, None]:
    """Yield the answer for every photo, in their order; for one that cannot be read, why.

    Args:
        address: "auto" for the cluster of this machine, "ray://host:port", or "local" to start one here. A
            connection that is open already is used as it is.
        workers: None = one a GPU, or one a CPU core where there is no GPU.

    Raises:
        ValueError: nobody answers at the address, or the workers cannot load the model.
    """
    connected = _connect(address)
    try:
        resources = ray.cluster_resources()
        num_gpus = int(resources.get("GPU", 0))
        num_workers = workers or num_gpus or max(1, int(resources.get("CPU", 1)))
        settings = {"packed": ray.put(_pack(model)), "format": str(format), "coverage": coverage}
        while part := list(islice(photos, PHOTOS_AT_ONCE)):
            found = _predict_part(part, settings, num_workers, batch_size or DEFAULT_BATCH, bool(num_gpus))
            yield from zip(part, found, strict=True)
    except ray.exceptions.RayError as error:
        raise ValueError(f"the cluster at {address} could not predict: {_root_line(error)}") from error
    finally:
        if connected:
            ray.shutdown()


def _connect(address: str) -> bool:
    """Join the cluster; True if this made the connection."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        # The nodes need torch, Pillow and numpy only: this package and the contract travel with the work.
        ray.init(address, runtime_env={"py_modules": list(_PROJECT)}, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ValueError(f"no Ray cluster answers at --address {address}: {first_line(error)}") from error
    return True


def _predict_part(
    part: list[Photo], settings: dict[str, Any], num_workers: int, batch_size: int, on_gpu: bool
) -> Iterator[ImageAnswer | str]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    num_batches = math.ceil(len(part) / batch_size)
    try:
        items = [
            {"number": number, "photo": json.dumps([photo.name, photo.place, photo.problem, photo.is_listed])}
            for number, photo in enumerate(part)
        ]
        answers = ray.data.from_items(
            items, override_num_blocks=min(num_batches, 8 * num_workers)
        ).map_batches(
            _Worker,
            fn_constructor_kwargs=settings | {"on_gpu": on_gpu},
            batch_size=batch_size,
            concurrency=(1, min(num_workers, num_batches)),
            num_cpus=None if on_gpu else 1,
            num_gpus=1 if on_gpu else None,
        )
        for number, row in enumerate(answers.iter_rows()):
            assert row["number"] == number  # preserve_order
            yield _read_answer(row["answer"])
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


class _Worker:
    """A process of the cluster with the model."""

    def __init__(self, *, packed: Any, format: str, coverage: float, on_gpu: bool) -> None:
        self._coverage = coverage
        self._threads = 4 if on_gpu else 1
        with tempfile.TemporaryDirectory() as name:
            for relative, content in ray.get(packed).items():
                path = Path(name) / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            device = "cuda" if on_gpu else "cpu"
            self._model = load_model(
                ModelPaths(Path(name)), Format(format), device=device, threads=None if on_gpu else 1
            )
        side = self._model.card.image_size
        self._size = BatchSize(None, bytes_per_image=12 * side * side)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        photos = (_read_photo(text) for text in batch["photo"])
        found = predict_photos(
            self._model, photos, coverage=self._coverage, threads=self._threads, size=self._size
        )
        answers = [json.dumps(one if isinstance(one, str) else one.as_values()) for _, one in found]
        return {"number": batch["number"], "answer": answers}


def _read_photo(text: str) -> Photo:
    name, place, problem, is_listed = json.loads(text)
    return Photo(name, place, problem=problem, is_listed=is_listed)


def _read_answer(text: str) -> ImageAnswer | str:
    values = json.loads(text)
    return values if isinstance(values, str) else ImageAnswer(**{**values, "set": tuple(values["set"])})


def _pack(model: ModelPaths) -> dict[str, bytes]:
    """The files of a model without its golden images, so that nodes need not see its folder."""
    paths = [
        path for path in model.directory.rglob("*") if path.is_file() and model.golden not in path.parents
    ]
    return {path.relative_to(model.directory).as_posix(): path.read_bytes() for path in paths}


def _root_line(error: Exception) -> str:
    """The last line of what a worker raised: Ray puts its own traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
