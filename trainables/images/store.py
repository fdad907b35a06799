"""Image store: each image decoded once to a small square, memory-mapped by all processes of a machine.

A store is a file: a header that names and checks the content, then the pixels of every readable image.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.decoding import FULL_RANGE, DeepRange, Fit, Pixels
from contract.files import DISK_FULL, file_lock, hold_shared
from contract.machine import count_cpus
from contract.study_layout import CachePaths
from trainables.data.storage_faults import wait_out_faults
from trainables.images.cache_room import room_for
from trainables.images.decoding import DecodedAtUse, ImageFact, ImageIndex, decode_files, stamp_files

log = logging.getLogger(__name__)

FORMAT = 2
"""Part of every key: raise it when decoding or the layout changes, and old files are no longer found."""

HEADER_BYTES = 4096
NUM_SAMPLES = 64
"""Rows whose checksums the header keeps; to check all would read the whole file."""

CHUNK = 32
"""Files that a thread decodes at a time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Layout:
    """What the header says: which images the file holds, and in what form."""

    key: str
    count: int
    size: int
    fit: Fit
    format: int = FORMAT

    @property
    def row_bytes(self) -> int:
        return self.size * self.size * 3

    @property
    def total_bytes(self) -> int:
        return HEADER_BYTES + self.count * self.row_bytes

    @property
    def sampled_rows(self) -> list[int]:
        """Rows spread over the file whose checksums the header keeps."""
        return sorted(set(np.linspace(0, self.count - 1, min(self.count, NUM_SAMPLES)).astype(int).tolist()))


class DamagedFile(Exception):
    """Raised for a store whose content is not what its header says."""


class Images(Protocol):
    """Images of a store, memory-mapped or not: indexed by row like an array [N, S, S, 3]."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Pixels: ...


class SpreadImages:
    """Stored rows of the readable images, with rows of zeros for the unreadable ones in between."""

    def __init__(self, images: Pixels, facts: Sequence[ImageFact]) -> None:
        readable = np.array([fact.ok for fact in facts])
        self._images = images
        self._rows = np.where(readable, np.cumsum(readable) - 1, -1)
        self.shape = (len(facts), *images.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> Pixels:
        stored = self._rows[rows]
        if np.ndim(stored) == 0:
            return np.zeros(self.shape[1:], np.uint8) if stored < 0 else self._images[stored]
        taken = np.zeros((len(stored), *self.shape[1:]), dtype=np.uint8)
        taken[stored >= 0] = self._images[stored[stored >= 0]]
        return taken


@dataclass(frozen=True, eq=False)
class ImageStore:
    """Images of a list of files, in its order."""

    images: Images
    """uint8 [N, S, S, 3], read-only; rows of unreadable images are zero."""

    facts: tuple[ImageFact, ...]
    key: str
    """Identity of the pixels: contents in order, size, fit and format."""

    path: Path | None
    """The mapped file; None where images are decoded at every use."""

    _descriptor: int | None = None
    """Kept open, with a shared lock, so that no process removes the file to make room while it is in use."""

    def __del__(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(fact.digest for fact in self.facts)

    @property
    def readable(self) -> NDArray[np.bool_]:
        return np.array([fact.ok for fact in self.facts], dtype=np.bool_)

    def take(self, indices: NDArray[np.int64]) -> Pixels:
        """Copy the images of a batch: uint8 [B, S, S, 3]."""
        return np.ascontiguousarray(self.images[np.asarray(indices, dtype=np.int64)])


def open_or_build(
    paths: Sequence[Path],
    *,
    storage_size: int,
    fit: Fit,
    cache_dir: Path,
    budget_gb: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    deep: DeepRange = FULL_RANGE,
) -> ImageStore:
    """Open the store of these files, decoding them first if need be; of several processes, one builds it.

    Without room for it (`budget_gb`, the free disk) images are decoded at every use, and a warning says so.

    Args:
        workers: threads that decode; None = one for each CPU that this process may use.
        progress: called with (files done, files in all) while decoding.
        deep: what is black and white in images of more than 8 bits; FULL_RANGE for a set without them.

    Raises:
        OSError: the disk filled up while the store was written; nothing is left behind.
    """
    folder = CachePaths(cache_dir).images
    build = _Build(tuple(paths), storage_size, fit, deep, folder, budget_gb, workers, progress)
    return build.open_known() or build.open_new()


@dataclass(frozen=True)
class _Build:
    """Request for a store of certain files: opens what is there, or builds it."""

    paths: tuple[Path, ...]
    size: int
    fit: Fit
    deep: DeepRange
    folder: Path
    budget_gb: float | None
    workers: int | None
    progress: Progress | None

    @property
    def index(self) -> ImageIndex:
        return ImageIndex(self.folder / "index.db")

    @property
    def form(self) -> str:
        """All that the pixels depend on beside the files."""
        deep = "" if self.deep == FULL_RANGE else f" {self.deep}"
        return f"{FORMAT} {self.size} {self.fit}{deep}"

    @property
    def name(self) -> str:
        """Name of the lock and of the partial file: it is known before any file is read."""
        listed = b"\0".join([*map(os.fsencode, self.paths), self.form.encode()])
        return hashlib.sha256(listed).hexdigest()[:32]

    def open_known(self) -> ImageStore | None:
        """Open the store if all files are known and it exists, undamaged; None = it has to be built."""
        facts = [fact for fact in self.index.look_up(self.paths, stamp_files(self.paths)) if fact]
        if len(facts) < len(self.paths):
            return None
        layout = self.layout_of(facts)
        if not self.fits_budget(layout):
            return self.decode_at_use(facts, layout)
        path = self.folder / f"{layout.key}.images"
        try:
            mapped = wait_out_faults(lambda: map_file(path, layout))
        except DamagedFile as error:
            log.warning("image store %s is damaged (%s) and is built anew", path, error)
            path.unlink(missing_ok=True)
            return None
        return self.wrap(mapped, facts, layout, path) if mapped else None

    def open_new(self) -> ImageStore:
        with file_lock(self.folder / f"{self.name}.lock"):
            store = self.open_known()  # another process may have built it meanwhile
            return store or self.build()

    def build(self) -> ImageStore:
        _remove_abandoned(self.folder)
        stamps = stamp_files(self.paths)
        layout = Layout(key="", count=len(self.paths), size=self.size, fit=self.fit)
        try:
            store = self.write(layout) if self.fits_budget(layout) else None
        except OSError as error:
            if error.errno not in DISK_FULL | {errno.EFBIG}:
                raise
            raise OSError(
                error.errno,
                f"the disk filled up while the image store was written ({layout.total_bytes / 1e9:.2g} GB in"
                f" {self.folder}); free some space, choose another cache folder, or give it a smaller budget",
            ) from error
        if store is None:
            known = self.index.look_up(self.paths, stamps)
            facts = [fact for fact in known if fact]
            if len(facts) < len(known):
                facts = self.decode_all(None)
                self.index.record(self.paths, stamps, facts)
            return self.decode_at_use(facts, self.layout_of(facts))
        self.index.record(self.paths, stamps, store.facts)
        return store

    def write(self, expected: Layout) -> ImageStore | None:
        """Write the store aside, force it to the disk and rename it; None if there is no room."""
        partial, cache_dir = self.folder / f"{self.name}.partial", self.folder.parent
        room = room_for(
            expected.total_bytes,
            cache_dir=cache_dir,
            budget_gb=self.budget_gb,
            spare_bytes=0.05 * shutil.disk_usage(self.folder).free,
        )
        with ExitStack() as cleanup:
            with room as is_room:
                if not is_room:
                    return None
                descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
                cleanup.callback(partial.unlink, missing_ok=True)
                cleanup.callback(os.close, descriptor)
                hold_shared(descriptor)  # from now on no process removes it to make room
                os.ftruncate(descriptor, expected.total_bytes)  # and others see what it will take
            facts = self.decode_all(descriptor)
            layout = self.layout_of(facts)
            keep_rows(descriptor, layout.row_bytes, [row for row, fact in enumerate(facts) if fact.ok])
            seal(descriptor, layout)
            path = self.folder / f"{layout.key}.images"
            partial.replace(path)
            mapped = map_file(path, layout)
        assert mapped is not None
        return self.wrap(mapped, facts, layout, path)

    def decode_all(self, descriptor: int | None) -> list[ImageFact]:
        """Decode every file, several at once (Pillow decodes outside the interpreter's lock)."""

        def decode(start: int) -> list[ImageFact]:
            pixels, facts = decode_files(self.paths[start : start + CHUNK], self.size, self.fit, self.deep)
            if descriptor is not None:
                write_at(descriptor, pixels, HEADER_BYTES + start * self.size * self.size * 3)
            return facts

        facts: list[ImageFact] = []
        pool = ThreadPoolExecutor(self.workers or count_cpus())
        try:
            for found in pool.map(decode, range(0, len(self.paths), CHUNK)):
                facts.extend(found)
                if self.progress:
                    self.progress(len(facts), len(self.paths))
        finally:
            pool.shutdown(cancel_futures=True)
        return facts

    def layout_of(self, facts: Sequence[ImageFact]) -> Layout:
        """Layout of the store that holds the readable ones of these files."""
        digests = [fact.digest for fact in facts if fact.ok]
        content = hashlib.sha256(f"{self.form}\n".encode() + "\n".join(digests).encode())
        return Layout(key=content.hexdigest()[:32], count=len(digests), size=self.size, fit=self.fit)

    def wrap(
        self, mapped: tuple[Pixels, int], facts: Sequence[ImageFact], layout: Layout, path: Path
    ) -> ImageStore:
        images, descriptor = mapped
        all_readable = layout.count == len(facts)
        spread: Images = images if all_readable else SpreadImages(images, facts)
        return ImageStore(spread, tuple(facts), layout.key, path, descriptor)

    def decode_at_use(self, facts: Sequence[ImageFact], layout: Layout) -> ImageStore:
        budget = "" if self.budget_gb is None else f" with a budget of {self.budget_gb:g} GB"
        log.warning(
            "no room for %.2g GB of decoded images in %s%s: every use decodes them again, which is slower",
            layout.total_bytes / 1e9,
            self.folder,
            budget,
        )
        images = DecodedAtUse(self.paths, self.size, self.fit, self.deep, facts)
        return ImageStore(images, tuple(facts), layout.key, path=None)

    def fits_budget(self, layout: Layout) -> bool:
        return self.budget_gb is None or layout.total_bytes <= self.budget_gb * 1e9


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed builders left: partial files whose lock is free."""
    for partial in folder.glob("*.partial"):
        with suppress(OSError), file_lock(partial.with_suffix(".lock"), timeout_seconds=0):
            partial.unlink(missing_ok=True)


def seal(descriptor: int, layout: Layout) -> None:
    """Write the header and force everything to the disk; the last step before the file gets its name."""
    header = json.dumps({**asdict(layout), "checksums": _checksums(descriptor, layout)}).encode()
    os.ftruncate(descriptor, layout.total_bytes)
    write_at(descriptor, header.ljust(HEADER_BYTES), 0)
    os.fsync(descriptor)


def map_file(path: Path, layout: Layout) -> tuple[Pixels, int] | None:
    """Map a store read-only: its images, and a descriptor that marks it as in use; None if it is not there.

    Raises:
        DamagedFile: truncated, of other content, or with changed pixels.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        hold_shared(descriptor)
        if os.fstat(descriptor).st_nlink == 0:  # removed between opening and locking it
            os.close(descriptor)
            return None
        _check(descriptor, layout)
    except (DamagedFile, OSError):
        os.close(descriptor)
        raise
    shape = (layout.count, layout.size, layout.size, 3)
    if layout.count == 0:  # nothing to map
        return np.zeros(shape, dtype=np.uint8), descriptor
    os.utime(descriptor)  # the stores used longest ago are removed first
    with os.fdopen(os.dup(descriptor), "rb") as file:  # by its name another file may be found, or none
        return np.memmap(file, dtype=np.uint8, mode="r", offset=HEADER_BYTES, shape=shape), descriptor


def write_at(descriptor: int, content: bytes | NDArray[np.uint8], offset: int) -> None:
    """Write everything: on a nearly full disk a call may write less than asked; the next fails."""
    view = memoryview(content).cast("B")  # type: ignore[arg-type]
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def keep_rows(descriptor: int, row_bytes: int, rows: Sequence[int]) -> None:
    """Move the given rows, in ascending order, to the front of the pixels, over those that are left out."""
    for target, row in enumerate(rows):
        if target != row:
            content = os.pread(descriptor, row_bytes, HEADER_BYTES + row * row_bytes)
            write_at(descriptor, content, HEADER_BYTES + target * row_bytes)


def _check(descriptor: int, layout: Layout) -> None:
    if os.fstat(descriptor).st_size != layout.total_bytes:
        raise DamagedFile("its length is wrong")
    try:
        header = json.loads(os.pread(descriptor, HEADER_BYTES, 0))
        checksums = header.pop("checksums")
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedFile("its header cannot be read") from error
    if header != asdict(layout):
        raise DamagedFile("its header describes other images")
    if checksums != _checksums(descriptor, layout):
        raise DamagedFile("its pixels have changed")


def _checksums(descriptor: int, layout: Layout) -> list[int]:
    offsets = (HEADER_BYTES + row * layout.row_bytes for row in layout.sampled_rows)
    return [zlib.crc32(os.pread(descriptor, layout.row_bytes, offset)) for offset in offsets]
