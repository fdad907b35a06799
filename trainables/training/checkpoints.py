"""Checkpoints of a trial that survive a kill, a torn file and a worker that does not know it was replaced."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from contract.study_layout import TrialPaths
from trainables.data.storage_faults import find_fault

_ARCHIVE = b"PK\x03\x04"
"""How a file of tensors begins."""


class Superseded(RuntimeError):
    """A newer attempt at the trial has begun: this one must not write any more."""


def begin_attempt(paths: TrialPaths, attempt: int) -> None:
    """Fence off all older attempts, before reading what they left.

    Raises:
        Superseded: a newer one has begun.
    """
    with _fence(paths, attempt):
        for leftover in paths.directory.glob(
            ".*.part"
        ):  # whoever wrote it was killed: writing needs the lock
            leftover.unlink(missing_ok=True)


def save_checkpoint(paths: TrialPaths, state: dict[str, Any], *, attempt: int) -> None:
    """Replace the newest checkpoint; the one before it is kept until the next.

    Args:
        state: tensors, numbers, strings and containers of them: nothing else loads again.

    Raises:
        Superseded: a newer attempt has begun.
    """
    with _fence(paths, attempt):
        part = _write(paths.checkpoint, lambda file: _save_tensors(state, file))
        if paths.checkpoint.exists():
            paths.checkpoint.replace(paths.previous_checkpoint)
        part.replace(paths.checkpoint)
        _sync(paths.directory)


def save_result(
    paths: TrialPaths, *, model: Mapping[str, Any], predictions: Mapping[str, Any], attempt: int
) -> None:
    """Write what a trial leaves behind, `model.pt` and `predictions.npz`; each is there wholly or not at all.

    Args:
        model: tensors, numbers, strings and containers of them, as in a checkpoint.
        predictions: arrays by name.

    Raises:
        Superseded: a newer attempt has begun; its files are not touched.
    """
    import numpy as np

    with _fence(paths, attempt):
        weights = _write(paths.weights, lambda file: _save_tensors(model, file))
        try:
            arrays = _write(paths.predictions, lambda file: np.savez(file, **predictions))
        except BaseException:
            weights.unlink(missing_ok=True)
            raise
        weights.replace(paths.weights)
        arrays.replace(paths.predictions)
        _sync(paths.directory)


def load_checkpoint(paths: TrialPaths) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None.

    Raises:
        OSError: a passing fault of the storage hides whether there is one.
    """
    for path in paths.checkpoints:
        state = load_state(path)
        if state is not None:
            return state
    return None


def load_state(path: Path) -> dict[str, Any] | None:
    """What a checkpoint or `model.pt` holds; None where the file is absent or torn.

    Raises:
        OSError: the storage has a passing fault, which must not pass for an absent file.
    """
    import torch

    try:
        with path.open("rb") as file:
            # torch takes anything but an archive for its old format, and then fails in every way there is.
            if file.read(len(_ARCHIVE)) != _ARCHIVE:
                return None
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError) as error:
        if find_fault(error) is not None:
            raise
        return None
    return state


def _claim(paths: TrialPaths, attempt: int) -> None:
    path = paths.attempt
    newest = int(path.read_text(encoding="utf-8")) if path.exists() else -1
    if newest > attempt:
        raise Superseded(f"attempt {attempt} was replaced by attempt {newest} in {paths.directory}")
    if newest < attempt:
        _write(path, lambda file: file.write(str(attempt).encode())).replace(path)


def _part(path: Path) -> Path:
    """A temporary name that no other process has, on whichever machine or in whichever container it runs."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _write(path: Path, save: Callable[[IO[bytes]], object]) -> Path:
    """Write to a temporary name beside the path, to the disk itself; the caller renames it."""
    part = _part(path)
    try:
        with part.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _save_tensors(state: Mapping[str, Any], file: IO[bytes]) -> None:
    import torch

    torch.save(dict(state), file)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _fence(paths: TrialPaths, attempt: int) -> Iterator[None]:
    """Hold the trial's lock, and with it the right to write: no newer attempt has begun or begins meanwhile.

    The kernel frees the lock when the process dies.

    Raises:
        Superseded: a newer attempt has begun.
    """
    paths.directory.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _claim(paths, attempt)
        yield
