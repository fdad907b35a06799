"""Is the first really better than the second? Paired tests on the saved predictions, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.predictions import Array, Predictions, class_scores, count_cells, load_predictions

Row = dict[str, Any]
Measure = Callable[[Array], float]
"""A metric as a function of how often each image counts."""

NUM_RESAMPLES = 1000
Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Two trials on the same validation images, the first against the second."""

    metric: str
    difference: float
    """Of the metric, positive where the first is better."""

    low: float
    high: float
    """95% interval of the difference: paired bootstrap over the images."""

    only_first_right: int
    only_second_right: int
    p_value: float
    """McNemar's exact test of the two counts above."""

    num_images: int

    @property
    def is_better(self) -> bool:
        """For accuracy both tests must agree; the other metrics have the bootstrap alone."""
        return self.low > 0 and (self.metric != "val_accuracy" or self.p_value < 0.05)

    @property
    def is_worse(self) -> bool:
        return self.high < 0 and (self.metric != "val_accuracy" or self.p_value < 0.05)


def find_finalists(rows: Sequence[Row]) -> tuple[Row | None, Row | None]:
    """Of ranked rows: the best complete trial (else the best pruned one), and the best other one."""
    ended = [row for row in rows if row["state"] in ("complete", "pruned") and row.get("best_epoch")]
    best = next((row for row in ended if row["state"] == "complete"), ended[0] if ended else None)
    return best, next((row for row in ended if row is not best), None)


def judge(
    first: Predictions, second: Predictions, *, metric: str, maximize: bool, seed: int = 0
) -> Verdict | None:
    """None where they were not asked about the same images, or the metric cannot be taken from them."""
    ids = np.intersect1d(first.ids, second.ids)
    if len(ids) == 0 or len(ids) < max(len(first), len(second)):
        return None
    first, second = first.take(ids), second.take(ids)
    if (
        first.labels != second.labels
    ).any() or first.log_probabilities.shape != second.log_probabilities.shape:
        return None
    measures = make_measure(first, metric), make_measure(second, metric)
    if measures[0] is None or measures[1] is None:
        return None
    sign = 1.0 if maximize else -1.0
    ones = np.ones(len(ids))
    resampled = [
        sign * (measures[0](weights) - measures[1](weights)) for weights in resample(len(ids), seed=seed)
    ]
    low, high = np.quantile(resampled, (0.025, 0.975))
    only_first = int((first.right & ~second.right).sum())
    only_second = int((second.right & ~first.right).sum())
    return Verdict(
        metric=metric,
        difference=sign * (measures[0](ones) - measures[1](ones)),
        low=float(low),
        high=float(high),
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=mcnemar(only_first, only_second),
        num_images=len(ids),
    )


def judge_finalists(
    rows: Sequence[Row], directories: Mapping[str, Path], *, metric: str, maximize: bool
) -> tuple[Row, Row, Verdict] | None:
    """The verdict on the first two of ranked rows; None where there are not two with predictions."""
    best, rival = find_finalists(rows)
    if best is None or rival is None:
        return None
    loaded = [load_predictions(directories[row["study"]], row["trial"]) for row in (best, rival)]
    if loaded[0] is None or loaded[1] is None:
        return None
    verdict = judge(loaded[0], loaded[1], metric=metric, maximize=maximize)
    return None if verdict is None else (best, rival, verdict)


def describe_finalists(
    rows: Sequence[Row], directories: Mapping[str, Path], *, metric: str, maximize: bool
) -> str:
    """The verdict on the first two as a sentence; empty where their predictions cannot tell."""
    judged = judge_finalists(rows, directories, metric=metric, maximize=maximize)
    if judged is None:
        return ""
    best, rival, verdict = judged
    several = len(directories) > 1
    names = [f"trial {row['trial']}" + (f" of {row['study']}" if several else "") for row in (best, rival)]
    sentence = describe_verdict(verdict, first=names[0], second=names[1])
    return f"{sentence[0].upper()}{sentence[1:]}."


def describe_verdict(verdict: Verdict, *, first: str, second: str) -> str:
    """One sentence with its evidence."""
    scale, unit = (100, " points") if is_share(verdict.metric) else (1, "")
    amount = f"{scale * verdict.difference:+.2f}{unit}"
    interval = f"95% interval {scale * verdict.low:+.2f} to {scale * verdict.high:+.2f}"
    evidence = f"{amount} {verdict.metric}, {interval}, on {verdict.num_images:,} validation images"
    only_first, only_second = verdict.only_first_right, verdict.only_second_right
    counts = f"{only_first} images only the first has right, {only_second} only the second"
    test = f"{counts}: McNemar p = {format_p(verdict.p_value)}"
    if verdict.is_better:
        return f"{first} is better than {second} ({evidence}; {test})"
    if verdict.is_worse:
        return f"{second} is better than {first} ({evidence}; {test})"
    return f"{first} cannot be told from {second} ({evidence}; {test})"


def confidence_interval(
    predictions: Predictions, *, metric: str, seed: int = 0
) -> tuple[float, float, float] | None:
    """The metric and its 95% interval: Wilson's for shares of images, the bootstrap's for the rest."""
    measure = make_measure(predictions, metric)
    if measure is None:
        return None
    value = measure(np.ones(len(predictions)))
    if metric in ("val_accuracy", "val_top3_accuracy"):
        return value, *wilson(round(value * len(predictions)), len(predictions))
    values = [measure(weights) for weights in resample(len(predictions), seed=seed)]
    low, high = np.quantile(values, (0.025, 0.975))
    return value, float(low), float(high)


def make_measure(predictions: Predictions, metric: str) -> Measure | None:
    """The metric as a function of image weights; None for those that are not of the predictions."""
    labels, log_probabilities = predictions.labels, predictions.log_probabilities
    own = log_probabilities[np.arange(len(labels)), labels]
    if metric in ("val_macro_f1", "val_balanced_accuracy"):
        return _class_measure(predictions, f1=metric == "val_macro_f1")
    if metric == "val_accuracy":
        scores: Array = predictions.right.astype(float)
    elif metric == "val_top3_accuracy":
        scores = _chance_among_top(log_probabilities, own, places=3)
    elif metric == "val_loss":
        scores = -own.astype(float)
    else:
        return None
    return lambda weights: float(weights @ scores / weights.sum())


def _chance_among_top(log_probabilities: Array, own: Array, *, places: int) -> Array:
    """The chance that each image's class is among the likeliest ones, if equally likely ones are drawn."""
    likelier = (log_probabilities > own[:, None]).sum(axis=1)
    equal = (log_probabilities == own[:, None]).sum(axis=1)
    chance: Array = np.clip((places - likelier) / equal, 0.0, 1.0)
    return chance


def _class_measure(predictions: Predictions, *, f1: bool) -> Measure:
    size, labels, predicted = (
        predictions.log_probabilities.shape[1],
        predictions.labels,
        predictions.predicted,
    )

    def measure(weights: Array) -> float:
        confusion = count_cells(labels, predicted, size, weights)
        _, recall, f1_scores = class_scores(confusion)
        return float((f1_scores if f1 else recall)[confusion.sum(axis=1) > 0].mean())

    return measure


def resample(num_images: int, *, seed: int) -> list[Array]:
    """How often each image is drawn, in each of the bootstrap's resamples."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, num_images, num_images) for _ in range(NUM_RESAMPLES))
    return [np.bincount(draw, minlength=num_images).astype(float) for draw in draws]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share: unlike p ± 2 s it stays within 0..1 and works for 0 and all."""
    share, z2 = hits / total, Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value: is the smaller count too small for a fair coin?"""
    total, fewer = only_first + only_second, min(only_first, only_second)
    log_terms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(math.exp(term) for term in log_terms))


def is_share(metric: str) -> bool:
    """Shares are shown in percent; losses are not."""
    return metric.endswith(("accuracy", "macro_f1"))


def format_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
