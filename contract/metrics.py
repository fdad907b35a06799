"""METRICS: what a trial reports after each epoch, one row a metric, with its unit, meaning and direction.

A new metric is a row here and a number in the trial's report. Rankings, tables, documentation of columns and
the tracker read the rest from its row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from contract.files import did_you_mean


class Unit(StrEnum):
    """Unit of a metric; each decides how its values are written."""

    SHARE = "0..1"
    """Shown in percent."""

    NATS = "nats"
    COUNT = "count"
    """A whole number."""

    SECONDS = "s"
    PER_SECOND = "1/s"
    GIGABYTES = "GB"
    NONE = ""


class Direction(StrEnum):
    """Direction in which a search improves a metric; the values are Optuna's and stand in study.json."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def sign(self) -> float:
        """Factor that turns a value into a score of which more is better."""
        return 1.0 if self is Direction.MAXIMIZE else -1.0


class Detail(IntEnum):
    """Detail a table must have to show the metric."""

    HEADLINE = 1
    SUMMARY = 2
    FULL = 3


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The facts about one metric."""

    name: str
    """Key in reports, in the table `epochs`, in MLflow and in --metric."""

    title: str
    """Heading of a narrow column."""

    unit: Unit
    meaning: str
    """Completes "name: ", without its unit."""

    maximize: bool
    ranks_trials: bool = False
    """A search can rank trials by it, as --metric's first name; any other may be a further objective."""

    is_share_of_images: bool = False
    """The metric is the share of a fixed set of images that is right, so Wilson's interval holds for it."""

    detail: Detail = Detail.FULL

    @property
    def direction(self) -> Direction:
        return Direction.MAXIMIZE if self.maximize else Direction.MINIMIZE

    @property
    def is_share(self) -> bool:
        """Values lie in 0..1 and are shown in percent."""
        return self.unit is Unit.SHARE

    @property
    def is_count(self) -> bool:
        """Values are whole numbers and are shown without decimals."""
        return self.unit is Unit.COUNT

    @property
    def about(self) -> str:
        """Meaning and unit in one line, as documentation of a column."""
        if self.unit is Unit.NONE:
            return self.meaning
        return f"{self.meaning}, {self.unit}" if self.is_share else f"{self.meaning} [{self.unit}]"


_ROWS = (
    Metric(
        name="val_accuracy",
        title="val acc",
        unit=Unit.SHARE,
        meaning="share of validation images classified right",
        maximize=True,
        ranks_trials=True,
        is_share_of_images=True,
        detail=Detail.HEADLINE,
    ),
    Metric(
        name="val_loss",
        title="val loss",
        unit=Unit.NATS,
        meaning="cross-entropy, mean over the validation images",
        maximize=False,
        ranks_trials=True,
        detail=Detail.HEADLINE,
    ),
    Metric(
        name="val_top3_accuracy",
        title="val top3 acc",
        unit=Unit.SHARE,
        meaning="share of validation images whose class is among the three likeliest",
        maximize=True,
        ranks_trials=True,
        is_share_of_images=True,
        detail=Detail.HEADLINE,
    ),
    Metric(
        name="val_macro_f1",
        title="val macro f1",
        unit=Unit.SHARE,
        meaning="mean over the classes of the harmonic mean of precision and recall",
        maximize=True,
        ranks_trials=True,
    ),
    Metric(
        name="val_balanced_accuracy",
        title="val balanced acc",
        unit=Unit.SHARE,
        meaning="mean over the classes of recall",
        maximize=True,
        ranks_trials=True,
    ),
    Metric(
        name="val_auroc",
        title="val auroc",
        unit=Unit.SHARE,
        meaning="chance that an image of the second of two classes is ranked above one of the first; of more "
        "classes the mean of each against the others",
        maximize=True,
        ranks_trials=True,
    ),
    Metric(
        name="val_average_precision",
        title="val average precision",
        unit=Unit.SHARE,
        meaning="mean precision where the images of the second of two classes are found one by one; of more "
        "classes the mean of each against the others",
        maximize=True,
        ranks_trials=True,
    ),
    Metric(
        name="train_accuracy",
        title="train acc",
        unit=Unit.SHARE,
        meaning="share of training images classified right while the weights changed",
        maximize=True,
        detail=Detail.HEADLINE,
    ),
    Metric(
        name="train_loss",
        title="train loss",
        unit=Unit.NATS,
        meaning="loss that was minimised, mean over the epoch's training images",
        maximize=False,
        detail=Detail.SUMMARY,
    ),
    Metric(
        name="train_top3_accuracy",
        title="train top3 acc",
        unit=Unit.SHARE,
        meaning="share of training images whose class is among the three likeliest",
        maximize=True,
        detail=Detail.SUMMARY,
    ),
    Metric(
        name="images_per_second",
        title="images per second",
        unit=Unit.PER_SECOND,
        meaning="training images a second",
        maximize=True,
    ),
    Metric(
        name="epoch_seconds",
        title="epoch seconds",
        unit=Unit.SECONDS,
        meaning="training and validation of the epoch",
        maximize=False,
    ),
    Metric(
        name="last_learning_rate",
        title="last lr",
        unit=Unit.NONE,
        meaning="learning rate of the head at the epoch's last update",
        maximize=True,
    ),
    Metric(
        name="images_at_once",
        title="images at once",
        unit=Unit.COUNT,
        meaning="training images in one pass: less than the batch if asked for, or if memory ran out",
        maximize=True,
    ),
    Metric(
        name="peak_memory_gb",
        title="peak memory gb",
        unit=Unit.GIGABYTES,
        meaning="most the trial allocated on its GPU so far; on a CPU what its process holds",
        maximize=False,
    ),
    Metric(
        name="parameters",
        title="parameters",
        unit=Unit.COUNT,
        meaning="weights of the classifier, head included",
        maximize=False,
        detail=Detail.SUMMARY,
    ),
    Metric(
        name="trainable_parameters",
        title="trainable parameters",
        unit=Unit.COUNT,
        meaning="weights that train, head included",
        maximize=False,
        detail=Detail.SUMMARY,
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
"""Every metric of a trial by name, in the order of a table's columns."""


def find_metric(name: str) -> Metric:
    """Find the row of a metric.

    Raises:
        ValueError: there is none; the message holds the nearest names.
    """
    if name in METRICS:
        return METRICS[name]
    hint = did_you_mean(name, METRICS) or f"choose from {', '.join(METRICS)}"
    raise ValueError(f"no trial reports a metric {name!r}: {hint}")


def direction_of(name: str) -> Direction:
    """Return the direction in which a search improves the metric.

    Raises:
        ValueError: no trial reports it.
    """
    return find_metric(name).direction


def is_share(name: str) -> bool:
    """True if values are shown in percent; False for a name that is no metric."""
    return name in METRICS and METRICS[name].is_share


def ranking_metrics() -> tuple[str, ...]:
    """List the names of metrics that can rank trials."""
    return tuple(row.name for row in METRICS.values() if row.ranks_trials)


def shown_metrics(detail: Detail) -> tuple[str, ...]:
    """List the names of metrics that a table of this detail shows, in the order of its columns."""
    return tuple(row.name for row in METRICS.values() if row.detail <= detail)


def check_objectives(names: Sequence[str]) -> None:
    """Check --metric: the first name ranks trials, a further one is anything that they report.

    Raises:
        ValueError: no trial reports it, or none can be ranked by it.
    """
    for name in names:
        if name not in METRICS:
            allowed = ranking_metrics() if name == names[0] else tuple(METRICS)
            hint = did_you_mean(name, allowed, before="; ")
            raise ValueError(f"--metric must be one of {', '.join(allowed)}, got {name!r}{hint}")
    if not METRICS[names[0]].ranks_trials:
        raise ValueError(
            f"--metric must begin with one of {', '.join(ranking_metrics())}, which trials can be ranked by, "
            f"got {names[0]!r}"
        )


def tie_break(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """Order of trials with equal values, the least first: validation loss, then trained parameters.

    On a small validation set accuracies are often equal. Of such trials the one with the lowest loss was 0.1
    to 0.2 points better on test images than the cheapest (`python -m benchmarks search_quality`).
    """
    value: float | None = metrics.get("val_loss")
    loss = math.inf if value is None or not math.isfinite(value) else float(value)
    return loss, float(metrics.get("trainable_parameters") or 0.0)


def epoch_merit(rule: str, epoch: int, *, value: float, loss: float | None, maximize: bool) -> float:
    """Return the merit of an epoch by a rule of `kept_epoch`: a trial keeps the first epoch with the highest.

    Args:
        rule: "last", "lowest_loss" or "best".
        value: the study's metric.
        loss: the validation loss; None if the trial reports none, and then "lowest_loss" is "best".

    Returns:
        -inf for an epoch that is never kept: its value, or the loss that decides, is NaN or infinite.
    """
    if not math.isfinite(value):
        return -math.inf
    if rule == "last":
        return float(epoch)
    if rule == "lowest_loss" and loss is not None:
        return -loss if math.isfinite(loss) else -math.inf
    return value if maximize else -value


def is_better(value: float, than: float | None, *, maximize: bool) -> bool:
    """True if a value beats the best so far, `than`; NaN, infinity and ties do not."""
    if not math.isfinite(value):
        return False
    return than is None or (value > than if maximize else value < than)
