"""Writes and reads a trial's checkpoints: safe against kills, torn files and workers that were replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.files import file_lock, find_os_error, remove_leftovers, save_text, sync, temporary_names
from contract.study_layout import TrialPaths

_ARCHIVE = b"PK\x03\x04"
"""First bytes of a file of tensors, which is a ZIP archive."""


class Superseded(RuntimeError):
    """A newer attempt at the trial has begun: this one must not write any more."""


def begin_attempt(paths: TrialPaths, attempt: int) -> None:
    """Keep all older attempts from writing; call it before reading what they left.

    Raises:
        Superseded: a newer one has begun.
    """
    with _fence(paths, attempt):
        remove_leftovers(paths.directory)  # whoever wrote them was killed: writing needs the lock


def save_checkpoint(paths: TrialPaths, state: dict[str, Any], *, attempt: int) -> None:
    """Replace the newest checkpoint; the one before it is kept until the next.

    Args:
        state: tensors, numbers, strings and containers of them: nothing else loads again.

    Raises:
        Superseded: a newer attempt has begun.
    """
    with _fence(paths, attempt), temporary_names(paths.checkpoint) as (part,):
        _write_tensors(state, part)
        if paths.checkpoint.exists():
            paths.checkpoint.replace(paths.previous_checkpoint)
        part.replace(paths.checkpoint)
        sync(paths.directory)


def save_result(
    paths: TrialPaths,
    *,
    model: Mapping[str, Any],
    predictions: Mapping[str, Any],
    attempt: int,
    is_out_of_sample: bool = True,
) -> None:
    """Write what a trial leaves behind, `model.pt` and `predictions.npz`; each is there wholly or not at all.

    Args:
        model: tensors, numbers, strings and containers of them, as in a checkpoint.
        predictions: arrays by name.
        is_out_of_sample: the model was not trained on the predicted images; otherwise they go to
            `fitted.npz`, by which nothing can be chosen.

    Raises:
        Superseded: a newer attempt has begun; its files are not touched.
    """
    target = paths.predictions if is_out_of_sample else paths.fitted_predictions
    names = (paths.weights, target)
    with _fence(paths, attempt), temporary_names(*names) as (weights, arrays):
        _write_tensors(model, weights)
        _write_arrays(predictions, arrays)
        sync(arrays)
        weights.replace(paths.weights)
        arrays.replace(target)
        sync(paths.directory)


def save_predictions(paths: TrialPaths, predictions: Mapping[str, Any], *, attempt: int) -> None:
    """Write what a trial has predicted so far, in case it is stopped here; a power cut may lose it.

    Raises:
        Superseded: a newer attempt has begun.
    """
    with _fence(paths, attempt), temporary_names(paths.predictions) as (arrays,):
        _write_arrays(predictions, arrays)
        arrays.replace(paths.predictions)


def load_checkpoint(paths: TrialPaths) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None.

    Raises:
        OSError: a transient fault of the storage hides whether there is one.
    """
    for path in paths.checkpoints:
        state = load_state(path)
        if state is not None:
            return state
    return None


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint or `model.pt`; None if the file is absent or torn.

    Raises:
        OSError: the storage has a transient fault; the file may be there all the same.
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
        if find_os_error(error) is not None:
            raise
        return None
    return state


def _claim(paths: TrialPaths, attempt: int) -> None:
    path = paths.attempt
    newest = int(path.read_text(encoding="utf-8")) if path.exists() else -1
    if newest > attempt:
        raise Superseded(f"attempt {attempt} was replaced by attempt {newest} in {paths.directory}")
    if newest < attempt:
        save_text(path, str(attempt))


def _write_tensors(state: Mapping[str, Any], path: Path) -> None:
    import torch

    with path.open("wb") as file:  # torch.save hides the errno of a fault where it opens the file itself
        torch.save(dict(state), file)
    sync(path)


def _write_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)


@contextmanager
def _fence(paths: TrialPaths, attempt: int) -> Iterator[None]:
    """Hold the trial's lock, so that no newer attempt has begun and none begins meanwhile.

    Raises:
        Superseded: a newer attempt has begun.
    """
    with file_lock(paths.lock):
        _claim(paths, attempt)
        yield
