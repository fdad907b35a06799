"""Predictions of trained classifiers, their views, or an exported program for all images of one split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.answer import MemberRef
from contract.decoding import Fit
from contract.files import write_aside
from contract.messages import StudySettings
from contract.predictions import pack_log_probabilities
from trainables.activations.shared import load_splits
from trainables.assembly import choose_validated
from trainables.device.memory import FittingSize
from trainables.export.ensemble import Members
from trainables.export.members import Configs, common_fit, config_of, load_members
from trainables.images.split_view import ViewSettings

Split = Literal["train", "val", "test"]
Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """What was predicted for the images of a split, in its order."""

    ids: NDArray[np.int64]
    """Rows of data.csv, [N]."""

    labels: NDArray[np.int64]
    log_probabilities: NDArray[np.float32]
    """[N, classes]."""

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of a file of predictions."""
        return {
            "ids": self.ids,
            "labels": self.labels,
            **pack_log_probabilities(self.log_probabilities, self.labels),
        }


def predict_members(
    refs: Sequence[MemberRef],
    configs: Configs,
    settings: StudySettings,
    split: Split,
    *,
    progress: Progress | None = None,
) -> dict[MemberRef, SplitPredictions]:
    """Predict a split by all members in one pass over its images, which computes shared prefixes once.

    Of "val" those images are predicted on which the study validates.

    Raises:
        ValueError: a member's weights are gone, the members want several fits, or the split is empty.
    """
    if not refs:
        return {}
    fit = common_fit(refs, configs, settings)
    limit = config_of(refs[0], configs).validation_images
    network = Members(load_members(refs, configs, settings)).eval().to(_device(settings))
    ids, labels, values = _predict(network, settings, fit, split, limit=limit, progress=progress)
    return {
        ref: SplitPredictions(ids=ids, labels=labels, log_probabilities=values[:, number])
        for number, ref in enumerate(refs)
    }


def predict_split(
    program: Callable[[Tensor], Tensor],
    settings: StudySettings,
    split: Split,
    *,
    fit: Fit,
    device: torch.device | None = None,
    validation_images: int = 0,
    progress: Progress | None = None,
) -> SplitPredictions:
    """Predict a split by one program or network: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes].

    Args:
        device: where the program is; None = the CPU.
        validation_images: most images of "val", as the study validates on; 0 = all.

    Raises:
        ValueError: the split is empty.
    """

    def log_probabilities(images: Tensor) -> Tensor:
        values = program(images)
        return values.clamp_min(torch.finfo(values.dtype).tiny).log()[None]

    ids, labels, values = _predict(
        log_probabilities,
        settings,
        fit,
        split,
        limit=validation_images,
        progress=progress,
        device=device or torch.device("cpu"),
    )
    return SplitPredictions(ids=ids, labels=labels, log_probabilities=values[:, 0])


def write_flipped_predictions(
    refs: Sequence[MemberRef],
    configs: Mapping[MemberRef, Mapping[str, Any]],
    settings: StudySettings,
    *,
    progress: Progress | None = None,
) -> None:
    """Predict the mirrored validation images by each classifier, and write that beside its predictions.

    Those that have the file are left out. Classifiers of one fit are predicted in one pass.

    Raises:
        ValueError: a member's weights are gone.
    """
    by_fit: dict[Fit, list[MemberRef]] = {}
    for ref in refs:
        if not ref.paths(settings.paths).flipped_predictions.exists():
            flipped = MemberRef(ref.kind, ref.number, "flip")
            by_fit.setdefault(common_fit([flipped], configs, settings), []).append(flipped)
    for group in by_fit.values():
        found = predict_members(group, configs, settings, "val", progress=progress)
        for ref, predictions in found.items():
            save_predictions(ref.paths(settings.paths).flipped_predictions, predictions)


def save_predictions(path: Path, predictions: SplitPredictions) -> None:
    """Write a file of predictions, wholly or not at all."""
    with write_aside(path) as part, part.open("wb") as file:
        np.savez(file, **predictions.as_arrays())  # type: ignore[arg-type]


@torch.inference_mode()
def _predict(
    network: Callable[[Tensor], Tensor],
    settings: StudySettings,
    fit: Fit,
    name: Split,
    *,
    limit: int,
    progress: Progress | None,
    device: torch.device | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Ids [N], labels [N] and log-probabilities [N, members, classes] of a network that gives the latter."""
    device = device or _device(settings)
    split = load_splits(settings, fit, device, (name,))[name]
    if not len(split):
        raise ValueError(f"the study has no {name} images")
    is_val = name == "val"
    shown = choose_validated(split.view_ids, limit=limit if is_val else 0, seed=settings.seed)
    view = ViewSettings(policy="none", image_size=settings.image_size, fit=fit, seed=settings.seed)
    fitting, parts = FittingSize(), []
    for start in range(0, len(shown), BATCH):
        images = view.images(split, shown[start : start + BATCH], epoch=0, device=device)
        parts.append(fitting.compute(lambda chosen: network(chosen).transpose(0, 1), images).float().cpu())
        if progress is not None:
            progress(min(start + BATCH, len(shown)), len(shown))
    labels = split.labels.cpu().numpy()[shown]
    return split.ids[shown], labels, torch.cat(parts).numpy()


def _device(settings: StudySettings) -> torch.device:
    return torch.device("cuda" if settings.use_gpu else "cpu")
