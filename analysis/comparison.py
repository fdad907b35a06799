"""Paired tests, image by image on the saved predictions, of whether one trial is better than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.image_table import load_groups
from analysis.predictions import Array, Predictions, class_scores, count_by_class, load_predictions
from analysis.reading import Row, StudyInfo
from contract.intervals import wilson
from contract.messages import State
from contract.metrics import METRICS, Direction, is_share
from contract.predictions import MOST_DENSE
from contract.ranking_metrics import RANKING_METRICS, ranking_measure

Measure = Callable[[Array], float]
"""Maps the weight of each image, [num_images], to the metric."""

NUM_RESAMPLES = 1000
FEWEST_GROUPS = 6
"""Fewest groups that can show a difference: all of five on one side happens by chance in 6 % of cases."""
MOST_FLIPPED = 2000
"""Most groups whose signs are all tried, which takes 0.1 s; beyond, the normal distribution is as good."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Result of comparing two trials on the same validation images."""

    metric: str
    difference: float
    """First minus second, with its sign turned for metrics that are minimised: positive favours the first."""

    low: float
    high: float
    """Ends of the difference's 95% interval, by paired bootstrap over the groups of images."""

    only_first_right: int
    only_second_right: int
    p_value: float
    """p-value of McNemar's exact test, whose units are the groups."""

    num_images: int
    num_groups: int
    """As many as images where each is its own group."""

    @property
    def is_better(self) -> bool:
        """True if the first is better: by both tests for accuracy, by the bootstrap for other metrics."""
        return self.low > 0 and self._is_beyond_chance

    @property
    def is_worse(self) -> bool:
        return self.high < 0 and self._is_beyond_chance

    @property
    def is_grouped(self) -> bool:
        return self.num_groups < self.num_images

    @property
    def _is_beyond_chance(self) -> bool:
        if self.is_grouped and self.num_groups < FEWEST_GROUPS:
            return False
        return self.metric != "val_accuracy" or self.p_value < 0.05


def find_finalists(rows: Sequence[Row]) -> tuple[Row | None, Row | None]:
    """Return the best complete trial (the best pruned one if none is) and the best of all others."""
    ended = [row for row in rows if State(row["state"]).has_value and row.get("kept_at_epoch")]
    best = next((row for row in ended if row["state"] is State.COMPLETE), ended[0] if ended else None)
    return best, next((row for row in ended if row is not best), None)


def compare_predictions(
    first: Predictions, second: Predictions, *, metric: str, direction: Direction, seed: int = 0
) -> PairedTest | None:
    """Compare two trials; None if their images differ, or predictions do not determine the metric.

    Images of one group are resampled, and counted by the test, together. Where the two disagree on which
    images belong together, as studies with other --group-by do, the fewer groups count.
    """
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
    groups = min((number_groups(one) for one in (first, second)), key=lambda numbers: int(numbers.max()))
    resampled = [
        sign * (measures[0](weights) - measures[1](weights)) for weights in resample(groups, seed=seed)
    ]
    low, high = percentile_interval(resampled)
    only_first = int((first.right & ~second.right).sum())
    only_second = int((second.right & ~first.right).sum())
    return PairedTest(
        metric=metric,
        difference=sign * (measures[0](ones) - measures[1](ones)),
        low=low,
        high=high,
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=mcnemar_of_groups(first.right.astype(int) - second.right.astype(int), groups),
        num_images=len(ids),
        num_groups=int(groups.max()) + 1,
    )


def describe_finalists(rows: Sequence[Row], studies: Sequence[StudyInfo]) -> str:
    """Say whether the best trial beats its rival beyond chance; empty without their predictions."""
    best, rival = find_finalists(rows)
    if best is None or rival is None:
        return ""
    directories = {study.name: study.directory for study in studies}
    folders = [directories[row["study"]] for row in (best, rival)]
    groups = {folder: load_groups(folder) for folder in dict.fromkeys(folders)}
    loaded = [
        load_predictions(folder, row["trial"], groups=groups[folder])
        for folder, row in zip(folders, (best, rival), strict=True)
    ]
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


def describe_test(tested: PairedTest, *, first: str, second: str, images: str = "validation images") -> str:
    """Say in one sentence which is better, with the evidence; `images` says what they were compared on."""
    scale, unit = (100, " points") if is_share(tested.metric) else (1, "")
    amount = f"{scale * tested.difference:+.2f}{unit}"
    interval = f"95% interval {scale * tested.low:+.2f} to {scale * tested.high:+.2f}"
    grouped = f" in {tested.num_groups:,} groups" if tested.is_grouped else ""
    evidence = f"{amount} {tested.metric}, {interval}, on {tested.num_images:,} {images}{grouped}"
    only_first, only_second = tested.only_first_right, tested.only_second_right
    counts = f"{only_first} images only the first has right, {only_second} only the second"
    by = " by groups" if tested.is_grouped else ""
    test = f"{counts}: McNemar{by} p = {format_p(tested.p_value)}"
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
    groups = number_groups(predictions)
    is_grouped = int(groups.max()) + 1 < len(predictions)
    if METRICS[metric].is_share_of_images:
        if is_grouped:
            return value, *wilson_of_groups(_image_scores(predictions, metric), groups)
        return value, *wilson(round(value * len(predictions)), len(predictions))
    if is_grouped and int(groups.max()) + 1 < FEWEST_GROUPS:
        return value, 0.0, 1.0 if is_share(metric) else math.inf  # so few groups leave everything open
    values = [measure(weights) for weights in resample(groups, seed=seed)]
    return value, *percentile_interval(values)


def percentile_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle 95% of resampled values, less those that are undefined.

    The ranking of few images is undefined where a resample holds one class alone; without any value left,
    nothing is known.
    """
    known = np.array(values)[np.isfinite(values)]
    if not len(known):
        return -math.inf, math.inf
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def make_measure(predictions: Predictions, metric: str) -> Measure | None:
    """Return the metric as a function of image weights; None if predictions do not determine it."""
    if metric in ("val_macro_f1", "val_balanced_accuracy"):
        return _class_measure(predictions, f1=metric == "val_macro_f1")
    if metric in RANKING_METRICS:
        values, is_whole = predictions.log_probabilities, predictions.log_probabilities.shape[1] <= MOST_DENSE
        return ranking_measure(values, predictions.labels, metric) if is_whole else None
    if metric not in ("val_accuracy", "val_top3_accuracy", "val_loss"):
        return None
    scores = _image_scores(predictions, metric)
    return lambda weights: float(weights @ scores / weights.sum())


def _image_scores(predictions: Predictions, metric: str) -> Array:
    """What each image adds to a metric that is a mean over the images."""
    scores: Array = predictions.right.astype(float)
    if metric == "val_accuracy":
        return scores
    labels, log_probabilities = predictions.labels, predictions.log_probabilities
    own = log_probabilities[np.arange(len(labels)), labels]
    if metric == "val_top3_accuracy":
        return _chance_among_top(log_probabilities, own, places=3)
    return -own.astype(float)


def _chance_among_top(log_probabilities: Array, own: Array, *, places: int) -> Array:
    """Chance that each image's class is among the likeliest `places`, where equally likely ones are drawn."""
    likelier = (log_probabilities > own[:, None]).sum(axis=1)
    equal = (log_probabilities == own[:, None]).sum(axis=1)
    chance: Array = np.clip((places - likelier) / equal, 0.0, 1.0)
    return chance


def _class_measure(predictions: Predictions, *, f1: bool) -> Measure:
    labels, predicted = predictions.labels, predictions.predicted
    size = predictions.log_probabilities.shape[1]

    def measure(weights: Array) -> float:
        counts = count_by_class(labels, predicted, size, weights)
        _, recall, f1_scores = class_scores(counts)
        return float((f1_scores if f1 else recall)[counts[1] > 0].mean())

    return measure


def number_groups(predictions: Predictions) -> Array:
    """Number the groups of the images from 0, [num_images]; of images that are their own in their order."""
    if predictions.groups is None:
        return np.arange(len(predictions))
    found, numbers = np.unique(predictions.groups, return_inverse=True)
    return np.arange(len(predictions)) if len(found) == len(predictions) else numbers


def resample(groups: Array, *, seed: int) -> Iterator[Array]:
    """Yield, for each bootstrap resample, the number of times that each image was drawn: [num_images].

    Whole groups are drawn, since images of one group are right or wrong together: the cluster bootstrap of
    Field and Welsh 2007, J. R. Stat. Soc. B 69:369, their scheme without resampling within a group.

    Args:
        groups: number of each image's group, counted from 0.
    """
    generator = np.random.default_rng(seed)
    num_groups = int(groups.max()) + 1
    for _ in range(NUM_RESAMPLES):
        draw = generator.integers(0, num_groups, num_groups)
        yield np.bincount(draw, minlength=num_groups).astype(float)[groups]


def wilson_of_groups(scores: Array, groups: Array) -> tuple[float, float]:
    """Return Wilson's 95% interval of a mean score whose images come in groups.

    The number of images is divided by the design effect, the variance between groups over that of single
    images, and scaled to the t distribution with as many degrees as groups less one: Korn and Graubard 1998,
    Survey Methodology 24:193; with Wilson's interval Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484.
    Where all images or none are right there is no variance, and the groups count as wholly alike.

    Args:
        scores: 1 for each image that is right, else 0, [num_images].
        groups: number of each image's group, counted from 0.
    """
    from scipy.stats import norm, t

    num_images, num_groups, share = len(scores), int(groups.max()) + 1, float(scores.mean())
    z = float(norm.ppf(0.975))
    if num_groups < 2:
        effective = 1.0
    elif share in (0.0, 1.0):
        effective = num_images**2 / float((np.bincount(groups) ** 2).sum())
    else:
        sums = np.bincount(groups, weights=scores - share)
        variance = num_groups / (num_groups - 1) * float((sums**2).sum()) / num_images**2
        independent = share * (1 - share) / num_images
        effective = num_images / max(variance / independent, 1.0)
        effective *= (z / float(t.ppf(0.975, num_groups - 1))) ** 2
    middle = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    reach = (
        z * math.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    )
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test: a fair coin gives counts at least this unequal so often."""
    from scipy.stats import binomtest  # 0.5 s, and most commands of the analysis need none of it

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def mcnemar_of_groups(differences: Array, groups: Array) -> float:
    """Two-sided exact p-value of McNemar's test where images come in groups.

    Under the null hypothesis either trial could have been the first, in each group as a whole. So the sum
    over a group of +1 (only the first is right) and -1 (only the second), of which Obuchowski 1998,
    Stat. Med. 17:1495, makes a statistic, has either sign with equal chance. All signs give the total's
    exact distribution:
    Winkler et al. 2015, NeuroImage 123:253, on flipping signs of whole blocks. Groups of one image give
    McNemar's own test. Of more than MOST_FLIPPED groups that differ the total is taken as normal.

    Args:
        differences: +1, 0 or -1 for each image, [num_images].
        groups: number of each image's group, counted from 0.
    """
    if int(groups.max()) + 1 == len(groups):
        return mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    sums = np.abs(np.bincount(groups, weights=differences).round().astype(int))
    sums, observed = sums[sums > 0], abs(int(differences.sum()))
    if len(sums) > MOST_FLIPPED:
        return math.erfc(observed / math.sqrt(2 * float((sums**2).sum())))
    total = int(sums.sum())
    chances = np.zeros(2 * total + 1)  # of each total, from -total on
    chances[total] = 1.0
    for amount in sums.tolist():
        moved = np.zeros_like(chances)
        moved[amount:] += chances[:-amount] / 2
        moved[:-amount] += chances[amount:] / 2
        chances = moved
    reached = np.abs(np.arange(-total, total + 1)) >= observed
    return min(1.0, float(chances[reached].sum()))


def format_p(value: float) -> str:
    """Format a p-value for a sentence; very small ones become a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
