"""Judges a chosen model by frozen features: how unknown classes are told, whether more photos would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from analysis.answer.pool import Pool
from analysis.calibration.more_photos import measure_photo_curve
from analysis.calibration.unknown import FrozenFeatures
from analysis.image_table import load_image_table
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from wiring.unknown_class import UnknownClasses


def prepare_unknown(settings: StudySettings, config: Mapping[str, Any]) -> None:
    """Begin what `judge_unknown` will do with the backbone of a configuration, whatever the choice is."""
    if settings.weights == "random":
        return
    from trainables.export.unknown_program import prepare_unknown_program

    table = load_image_table(settings.paths.directory)
    num_means = len(np.unique(table.labels[table.of("train")]))
    prepare_unknown_program(config, settings, num_means=num_means)


def judge(
    settings: StudySettings,
    pool: Pool,
    probabilities: NDArray[np.float64],
    config: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Judge how unknown classes are told, and whether more photos would help: facts of the answer."""
    unknown = judge_unknown(settings, pool, probabilities, config, folder)
    return {**unknown, **judge_photos(settings, pool, config)}


def judge_unknown(
    settings: StudySettings,
    pool: Pool,
    probabilities: NDArray[np.float64],
    config: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Choose how unknown classes are told, and write its program into `folder`.

    Args:
        probabilities: calibrated ones of the pool's images, [images, classes].
        config: of the member whose pretrained backbone gives the features.

    Returns:
        A fact of the answer; none where the backbone is not pretrained.
    """
    with one_blas_thread():
        frozen = load_frozen(settings, pool, config)
        if frozen is None:
            return {}
        unknown = UnknownClasses.choose(frozen, probabilities, ids=pool.ids, config=config, settings=settings)
    unknown.export(settings, ModelPaths(folder))
    return {"unknown": {"said": unknown.rule.describe(), **unknown.rule.as_values()}}


def judge_photos(settings: StudySettings, pool: Pool, config: Mapping[str, Any]) -> dict[str, Any]:
    """Measure whether more photos would help: a fact of the answer, none as `judge_unknown`."""
    with one_blas_thread():
        frozen = load_frozen(settings, pool, config)
        if frozen is None:
            return {}
        curve = measure_photo_curve(
            frozen.train,
            frozen.train_labels,
            frozen.train_groups,
            frozen.val,
            frozen.val_labels,
            frozen.val_groups,
            num_classes=len(settings.classes),
        )
    return {"more_photos": {"said": curve.describe(), **curve.as_values()}}


def load_frozen(settings: StudySettings, pool: Pool, config: Mapping[str, Any]) -> FrozenFeatures | None:
    """Features of the configuration's pretrained backbone, for the images of the pool; None without any."""
    from trainables.export.frozen_features import frozen_features

    if settings.weights == "random":
        return None
    found = frozen_features(config, settings)
    (train_ids, train), (val_ids, val) = found["train"], found["val"]
    rows = np.searchsorted(val_ids, pool.ids)
    table = load_image_table(settings.paths.directory)
    return FrozenFeatures(
        train=train,
        train_labels=table.labels[train_ids],
        train_groups=table.groups[train_ids],
        val=val[rows],
        val_labels=pool.labels,
        val_groups=pool.groups,
    )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit linear algebra to one thread: two that wait for each other on a busy machine took 16 s, not 2."""
    import scipy.linalg  # noqa: F401  # loads the library whose threads are limited

    with threadpool_limits(1, user_api="blas"):
        yield
