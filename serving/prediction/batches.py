"""Decodes photos in threads ahead of the model, and finds the size of its batches by itself."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from contract.decoding import Floats
from contract.files import first_line, plural
from contract.model_answers import ImageAnswer
from contract.model_card import ModelCard
from serving.prediction.photos import Photo, read_photo

FIRST_SIZE = 16
"""Photos of the first batches. At 128 px 16 were quicker than 32 and 64, which left the caches."""

MOST_BATCH_BYTES = 256 * 2**20
"""Most memory of a batch's pixels; about twice as much again waits decoded."""

TRIALS = 3
"""Batches of a size of which the quickest counts."""

WORTH = 0.9
"""A doubled batch must need at most this share of the time of an image, or the smaller one stays."""


class Predictor(Protocol):
    """What is needed of a loaded model."""

    @property
    def card(self) -> ModelCard: ...

    def read(self, content: bytes) -> Floats | str: ...

    def predict(self, images: Floats, *, coverage: float) -> list[ImageAnswer]: ...


class BatchSize:
    """Doubles the batch while that makes an image quicker, on the photos themselves, and then stays."""

    def __init__(self, fixed: int | None, *, bytes_per_image: int) -> None:
        most = max(1, MOST_BATCH_BYTES // bytes_per_image)
        self.size = fixed or min(FIRST_SIZE, most)
        self._most = most
        self._is_found = fixed is not None
        self._seconds: list[float] = []
        self._before = math.inf

    def note(self, num_images: int, seconds: float) -> None:
        """Learn how long a batch took."""
        if self._is_found or num_images != self.size:
            return
        self._seconds.append(seconds / num_images)
        if len(self._seconds) < TRIALS:
            return
        best = min(self._seconds)
        if best > WORTH * self._before:
            self.size //= 2
            self._is_found = True
        elif 2 * self.size > self._most:
            self._is_found = True
        else:
            self._before, self._seconds, self.size = best, [], 2 * self.size

    def shrink(self, num_images: int) -> None:
        """Halve for good, after a batch of so many images did not fit into the memory."""
        self.size, self._is_found = max(1, num_images // 2), True


def predict_photos(
    model: Predictor,
    photos: Iterator[Photo],
    *,
    coverage: float,
    threads: int,
    size: BatchSize,
    say: Callable[[str], None] = lambda _: None,
) -> Generator[tuple[Photo, ImageAnswer | str], None, None]:
    """Yield the answer for every photo, in their order; for one that cannot be read, why.

    While the model computes a batch, threads decode the next one; never more than that are held.

    Args:
        threads: that decode.
        say: told a line when the batch had to be made smaller.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    waiting: deque[tuple[Photo, Future[Floats | str]]] = deque()

    def decode_ahead() -> None:
        while len(waiting) < 2 * size.size + threads and (photo := next(photos, None)):
            waiting.append((photo, pool.submit(_decode, model, photo)))

    try:
        decode_ahead()
        while waiting:
            chunk = [waiting.popleft() for _ in range(min(size.size, len(waiting)))]
            read = [future.result() for _, future in chunk]
            decode_ahead()
            images = [one for one in read if not isinstance(one, str)]
            answers = iter(_answer(model, images, coverage, size, say))
            for (photo, _), one in zip(chunk, read, strict=True):
                yield photo, one if isinstance(one, str) else next(answers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(model: Predictor, photo: Photo) -> Floats | str:
    try:
        return model.read(read_photo(photo))
    except OSError as error:
        return first_line(error)
    except MemoryError:
        return "not enough memory to read it"


def _answer(
    model: Predictor, images: Sequence[Floats], coverage: float, size: BatchSize, say: Callable[[str], None]
) -> list[ImageAnswer]:
    """Answer for a batch; one that does not fit into the memory is halved.

    Raises:
        OSError: not even one image fits.
    """
    if not images:
        return []
    began = time.perf_counter()
    try:
        found = model.predict(np.stack(images), coverage=coverage)
    except Exception as error:  # each library has its own for a full memory; all others are raised again
        if not _is_out_of_memory(error):
            raise
        if len(images) == 1:
            raise OSError("the memory is too small for one image: free some, or pass --device cpu") from error
        size.shrink(len(images))
        say(f"{plural(len(images), 'image')} at once do not fit into the memory: {size.size} from now on")
        middle = len(images) // 2
        halves = (images[:middle], images[middle:])
        return [one for half in halves for one in _answer(model, half, coverage, size, say)]
    size.note(len(images), time.perf_counter() - began)
    return found


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(
        sign in text for sign in ("outofmemory", "out of memory", "memoryerror", "can't allocate memory")
    )
