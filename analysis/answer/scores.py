"""Scores of candidates and of predictions on weighted images, many resamples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.answer.pool import LOWEST, Pool
from analysis.predictions import Array
from contract.answer import Pooling
from contract.metrics import direction_of

IMAGE_METRICS = ("val_accuracy", "val_loss", "val_top3_accuracy")
"""Metrics that are a mean over the images."""

CLASS_METRICS = ("val_macro_f1", "val_balanced_accuracy")
"""Metrics that are a mean over the classes."""

METRICS_KNOWN = (*IMAGE_METRICS, *CLASS_METRICS)


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What predictions gave each image: float64 [images] each."""

    right: Array
    loss: Array
    top3: Array
    predicted: Array
    """int64: the class."""


def check_metric(metric: str) -> None:
    """Refuse a metric that predictions alone do not determine.

    Raises:
        ValueError: it is one of those.
    """
    if metric not in METRICS_KNOWN:
        raise ValueError(f"the answer can be chosen by {', '.join(METRICS_KNOWN)}, got {metric!r}")


def score_images(log_probabilities: Array, labels: Array) -> ImageScores:
    """Score log-probabilities [images, classes]."""
    own = log_probabilities[np.arange(len(labels)), labels]
    predicted = log_probabilities.argmax(axis=1)
    likelier = (log_probabilities > own[:, None]).sum(axis=1)
    equal = (log_probabilities == own[:, None]).sum(axis=1)
    return ImageScores(
        right=(predicted == labels).astype(np.float64),
        loss=-np.maximum(own, LOWEST).astype(np.float64),
        top3=np.clip((3 - likelier) / np.maximum(equal, 1), 0.0, 1.0),
        predicted=predicted,
    )


def score_shares(pool: Pool, shares: Array, pooling: Pooling, images: Array) -> ImageScores:
    """Score the combination with these shares [candidates] on some of the pool's images.

    Args:
        images: indices without repetition, in rising order.
    """
    members = np.flatnonzero(shares)
    whole = len(images) == pool.num_images
    values = (
        pool.log_probabilities[one] if whole else pool.log_probabilities[one, images] for one in members
    )
    labels = pool.labels if whole else pool.labels[images]
    if len(members) == 1:
        return score_images(next(values), labels)
    # As pool_log_probabilities, but in single precision and member by member: a quarter of the time.
    total = np.zeros((len(labels), pool.num_classes), dtype=np.float32)
    for share, one in zip(shares[members].astype(np.float32), values, strict=True):
        clipped = np.maximum(one, LOWEST)
        total += share * (clipped if pooling is Pooling.LOGITS else np.exp(clipped))
    if pooling is Pooling.PROBABILITIES:
        return score_images(np.log(total), labels)
    total -= total.max(axis=1, keepdims=True)
    return score_images(total - np.log(np.exp(total).sum(axis=1, keepdims=True)), labels)


def score_candidates(pool: Pool, metric: str, weights: Array) -> Array:
    """Score every candidate on every resample, more being better: float64 [resamples, candidates].

    Args:
        metric: one of METRICS_KNOWN; a loss is returned with its sign turned.
        weights: how often each image counts, [resamples, images].
    """
    sign = direction_of(metric).sign
    if metric in CLASS_METRICS:
        return sign * _class_scores(pool, weights, f1=metric == "val_macro_f1")
    values = _image_values(pool, metric)
    scores: Array = sign * (weights @ values.T) / weights.sum(axis=1, keepdims=True)
    return scores


def difference_errors(pool: Pool, metric: str) -> Array:
    """Standard errors of the differences between candidates on the same images: [candidates, candidates].

    Groups of images are right or wrong together, so that the variance is that of their sums. A metric of
    classes is taken for balanced accuracy. For a loss, and where there is one group only, all are 0: a
    difference then counts however small it is.
    """
    if metric == "val_loss" or pool.num_groups < 2:
        return np.zeros((len(pool), len(pool)))
    if metric in CLASS_METRICS:
        counts = np.bincount(pool.labels)
        values, shares = pool.right, 1 / (counts[pool.labels] * np.count_nonzero(counts))
    else:
        values, shares = _image_values(pool, metric), np.full(pool.num_images, 1 / pool.num_images)
    parts = shares * (values - (values * shares).sum(axis=1, keepdims=True))
    sums = count_classes(parts, pool.groups, pool.num_groups)
    products = sums @ sums.T
    squares = np.diag(products)
    variances = squares[:, None] + squares[None, :] - 2 * products
    correction = pool.num_groups / (pool.num_groups - 1)
    errors: Array = np.sqrt(correction * np.maximum(variances, 0.0))
    return errors


def _image_values(pool: Pool, metric: str) -> Array:
    if metric == "val_loss":
        return pool.losses
    if metric == "val_accuracy":
        return pool.right
    return np.stack([score_images(one, pool.labels).top3 for one in pool.log_probabilities])


def _class_scores(pool: Pool, weights: Array, *, f1: bool) -> Array:
    """Mean over the classes of F1 or recall: [resamples, candidates]; classes without images are left out."""
    images = count_classes(weights, pool.labels, pool.num_classes)
    result = np.empty((len(weights), len(pool)))
    for number in range(len(pool)):
        right = count_classes(weights * pool.right[number], pool.labels, pool.num_classes)
        taken = count_classes(weights, pool.predicted[number], pool.num_classes) if f1 else None
        result[:, number] = mean_over_classes(right, images, taken)
    return result


def count_classes(weights: Array, classes: Array, num_classes: int) -> Array:
    """Add up weights [resamples, images] by the class of each image: [resamples, classes]."""
    from scipy.sparse import csr_array

    one_hot = csr_array(
        (np.ones(len(classes)), (classes, np.arange(len(classes)))), shape=(num_classes, len(classes))
    )
    return np.asarray(one_hot @ weights.T).T


def mean_over_classes(right: Array, images: Array, taken: Array | None) -> Array:
    """Mean over the classes that have images of F1, or of recall where `taken` is None.

    Args:
        right: images of each class that are right, [resamples, classes].
        images: images of each class, of the same shape.
        taken: images that were taken for each class, of the same shape.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = right / images if taken is None else 2 * right / (images + taken)
    known = images > 0
    total: Array = np.where(known, scores, 0.0).sum(axis=1) / known.sum(axis=1)
    return total
