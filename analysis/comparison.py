"""Paired tests, image by image on the saved predictions, of whether one trial is better than another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.predictions import Array, Predictions, class_scores, count_cells, load_predictions
from analysis.reading import Row, StudyInfo
from contract.messages import State
from contract.metrics import METRICS, Direction, is_share

Measure = Callable[[Array], float]
"""Maps the weight of each image, [num_images], to the metric."""

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Result of comparing two trials on the same validation images."""

    metric: str
    difference: float
    """First minus second, with its sign turned for metrics that are minimised: positive favours the first."""

    low: float
    high: float
    """Ends of the difference's 95% interval, by paired bootstrap over the images."""

    only_first_right: int
    only_second_right: int
    p_value: float
    """p-value of McNemar's exact test on the two counts above."""

    num_images: int

    @property
    def is_better(self) -> bool:
        """True if the first is better: by both tests for accuracy, by the bootstrap for other metrics."""
        return self.low > 0 and (self.metric != "val_accuracy" or self.p_value < 0.05)

    @property
    def is_worse(self) -> bool:
        return self.high < 0 and (self.metric != "val_accuracy" or self.p_value < 0.05)


def find_finalists(rows: Sequence[Row]) -> tuple[Row | None, Row | None]:
    """Return the best complete trial (the best pruned one if none is) and the best of all others."""
    ended = [row for row in rows if State(row["state"]).has_value and row.get("kept_at_epoch")]
    best = next((row for row in ended if row["state"] is State.COMPLETE), ended[0] if ended else None)
    return best, next((row for row in ended if row is not best), None)


def compare_predictions(
    first: Predictions, second: Predictions, *, metric: str, direction: Direction, seed: int = 0
) -> PairedTest | None:
    """Compare two trials; None if their images differ, or predictions do not determine the metric."""
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
    sign = direction.sign
    ones = np.ones(len(ids))
    resampled = [
        sign * (measures[0](weights) - measures[1](weights)) for weights in resample(len(ids), seed=seed)
    ]
    low, high = np.quantile(resampled, (0.025, 0.975))
    only_first = int((first.right & ~second.right).sum())
    only_second = int((second.right & ~first.right).sum())
    return PairedTest(
        metric=metric,
        difference=sign * (measures[0](ones) - measures[1](ones)),
        low=float(low),
        high=float(high),
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=mcnemar(only_first, only_second),
        num_images=len(ids),
    )


def describe_finalists(rows: Sequence[Row], studies: Sequence[StudyInfo]) -> str:
    """Say whether the best trial beats its rival beyond chance; empty without their predictions."""
    best, rival = find_finalists(rows)
    if best is None or rival is None:
        return ""
    directories = {study.name: study.directory for study in studies}
    loaded = [load_predictions(directories[row["study"]], row["trial"]) for row in (best, rival)]
    if loaded[0] is None or loaded[1] is None:
        return ""
    metric, direction = studies[0].metric, studies[0].direction
    tested = compare_predictions(loaded[0], loaded[1], metric=metric, direction=direction)
    if tested is None:
        return ""
    several = len(studies) > 1
    names = [f"trial {row['trial']}" + (f" of {row['study']}" if several else "") for row in (best, rival)]
    sentence = describe_test(tested, first=names[0], second=names[1])
    return f"{sentence[0].upper()}{sentence[1:]}."


def describe_test(tested: PairedTest, *, first: str, second: str) -> str:
    """Say in one sentence which is better, with the evidence."""
    scale, unit = (100, " points") if is_share(tested.metric) else (1, "")
    amount = f"{scale * tested.difference:+.2f}{unit}"
    interval = f"95% interval {scale * tested.low:+.2f} to {scale * tested.high:+.2f}"
    evidence = f"{amount} {tested.metric}, {interval}, on {tested.num_images:,} validation images"
    only_first, only_second = tested.only_first_right, tested.only_second_right
    counts = f"{only_first} images only the first has right, {only_second} only the second"
    test = f"{counts}: McNemar p = {format_p(tested.p_value)}"
    if tested.is_better:
        return f"{first} is better than {second} ({evidence}; {test})"
    if tested.is_worse:
        return f"{second} is better than {first} ({evidence}; {test})"
    return f"{first} cannot be told from {second} ({evidence}; {test})"


def confidence_interval(
    predictions: Predictions, *, metric: str, seed: int = 0
) -> tuple[float, float, float] | None:
    """Return the metric and its 95% interval: Wilson's for shares of images, else the bootstrap's.

    None if predictions do not determine the metric.
    """
    measure = make_measure(predictions, metric)
    if measure is None:
        return None
    value = measure(np.ones(len(predictions)))
    if METRICS[metric].is_share_of_images:
        return value, *wilson(round(value * len(predictions)), len(predictions))
    values = [measure(weights) for weights in resample(len(predictions), seed=seed)]
    low, high = np.quantile(values, (0.025, 0.975))
    return value, float(low), float(high)


def make_measure(predictions: Predictions, metric: str) -> Measure | None:
    """Return the metric as a function of image weights; None if predictions do not determine it."""
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
    """Chance that each image's class is among the likeliest `places`, where equally likely ones are drawn."""
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
    """Yield, for each bootstrap resample, the number of times that each image was drawn: [num_images]."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, num_images, num_images) for _ in range(NUM_RESAMPLES))
    return [np.bincount(draw, minlength=num_images).astype(float) for draw in draws]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share: unlike p ± 2 s it stays within 0..1, even for none and all."""
    from scipy.stats import binomtest

    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test: a fair coin gives counts at least this unequal so often."""
    from scipy.stats import binomtest  # 0.5 s, and most commands of the analysis need none of it

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def format_p(value: float) -> str:
    """Format a p-value for a sentence; very small ones become a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
