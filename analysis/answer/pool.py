"""The candidates for a study's answer, with what each predicted for the same validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.comparison import number_groups
from analysis.image_table import load_groups
from analysis.predictions import Array, Predictions, load_predictions
from analysis.reading import Row, load_study, load_trial_rows
from contract.answer import MemberRef
from contract.messages import State
from contract.trial_config import ALL, NOTHING_FROZEN

LOWEST = np.float32(-80.0)
"""Log-probability that smaller ones are taken for: e^-80 is still an exact float32."""

MOST_BYTES = 512 * 2**20
"""Most memory for log-probabilities: of more candidates the best by the study's metric are kept.

The others would have to overtake hundreds of better ones to be chosen in any resample.
"""

NOT_MEASURED = 1e12
"""Cost of a candidate without one, so that any measured one is cheaper."""


@dataclass(frozen=True)
class Candidate:
    """A classifier, or one view of it, that may become the answer or a part of it."""

    ref: MemberRef
    name: str
    backbone: str
    prefix: str
    """Candidates with an equal key can share one pass of a frozen prefix; "" = it shares with none."""

    cost: float
    """Relative cost of one image, such as forward milliseconds or parameters; smaller is cheaper."""

    selectable: bool
    """Its weights are there. Others could have been chosen and count in the correction alone."""

    is_recipe: bool = False
    """It is a published configuration."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates and their predictions of the same images."""

    candidates: tuple[Candidate, ...]
    log_probabilities: Array
    """float32 [candidates, images, classes]"""

    labels: Array
    groups: Array
    """Number of each image's group, counted from 0: int64 [images]."""

    ids: Array

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return int(self.log_probabilities.shape[2])

    @property
    def num_groups(self) -> int:
        return int(self.groups.max()) + 1

    @cached_property
    def losses(self) -> Array:
        """Cross-entropy of each image, at most 80: float64 [candidates, images]."""
        own = self.log_probabilities[:, np.arange(self.num_images), self.labels]
        losses: Array = -np.maximum(own, LOWEST).astype(np.float64)
        return losses

    @cached_property
    def predicted(self) -> Array:
        """The class each candidate takes an image for: int64 [candidates, images]."""
        answer: Array = self.log_probabilities.argmax(axis=2)
        return answer

    @cached_property
    def right(self) -> Array:
        """float64 [candidates, images]: 1 where the predicted class is right."""
        answer: Array = (self.predicted == self.labels).astype(np.float64)
        return answer

    @cached_property
    def by_cost(self) -> Array:
        """Indices of the candidates, the cheapest first, and equally cheap ones by their kind and number."""
        keys = [(one.cost, one.ref, index) for index, one in enumerate(self.candidates)]
        return np.array([index for *_, index in sorted(keys)], dtype=np.int64)

    @cached_property
    def selectable(self) -> Array:
        """Indices of the candidates whose weights are there."""
        return np.array([i for i, one in enumerate(self.candidates) if one.selectable], dtype=np.int64)

    def of(self, indices: Array) -> Pool:
        """The pool of these candidates alone."""
        if len(indices) == len(self) and (np.asarray(indices) == np.arange(len(self))).all():
            return self
        chosen = tuple(self.candidates[index] for index in indices)
        return Pool(chosen, self.log_probabilities[indices], self.labels, self.groups, self.ids)


def make_pool(parts: Sequence[tuple[Candidate, Predictions]]) -> Pool | None:
    """Join candidates that predicted the images that most of them predicted; None where there are none.

    Left out are those of other images, other labels or another number of classes, and those with NaN.
    """
    usable = [(one, of) for one, of in parts if not np.isnan(of.log_probabilities).any()]
    if not usable:
        return None
    keys = [_shape_key(of) for _, of in usable]
    most = Counter(keys).most_common(1)[0][0]
    kept = [part for part, key in zip(usable, keys, strict=True) if key == most]
    first = kept[0][1]
    ids = np.sort(first.ids)
    aligned = first.take(ids)
    return Pool(
        candidates=tuple(one for one, _ in kept),
        log_probabilities=np.stack([of.take(ids).log_probabilities for _, of in kept]),
        labels=aligned.labels,
        groups=number_groups(aligned),
        ids=ids,
    )


def _shape_key(predictions: Predictions) -> tuple[bytes, bytes, int]:
    order = np.argsort(predictions.ids)
    ids, labels = predictions.ids[order], predictions.labels[order]
    return ids.tobytes(), labels.tobytes(), int(predictions.log_probabilities.shape[1])


def load_pool(study_dir: Path, *, extra: Sequence[tuple[Candidate, Predictions]] = ()) -> Pool | None:
    """Load the trials that ended with a value and left predictions; None where no two images remain.

    Args:
        extra: more candidates: final trainings, soups, flipped views.
    """
    study = load_study(study_dir)
    groups = load_groups(study_dir)
    rows = [row for row in load_trial_rows(study) if State(row["state"]).has_value]
    rows.sort(key=lambda row: _merit(row, study.metric, study.direction.sign), reverse=True)
    parts: list[tuple[Candidate, Predictions]] = []
    size = 0
    for row in rows:
        predictions = load_predictions(study_dir, row["trial"], groups=groups)
        if predictions is None:
            continue
        size += predictions.log_probabilities.nbytes
        if size > MOST_BYTES and parts:
            break
        selectable = row["state"] is State.COMPLETE and study.paths.trial(row["trial"]).weights.is_file()
        parts.append((trial_candidate(row, selectable=selectable), predictions))
    parts.sort(key=lambda part: part[0].ref)
    return make_pool([*parts, *extra])


def trial_candidate(row: Row, *, selectable: bool) -> Candidate:
    """Describe a trial by its row."""
    backbone = str(row.get("backbone") or "")
    return Candidate(
        ref=MemberRef("trial", int(row["trial"])),
        name=f"trial {row['trial']}",
        backbone=backbone,
        prefix=prefix_key(row),
        cost=float(row.get("parameters") or NOT_MEASURED),
        selectable=selectable,
        is_recipe=bool(row.get("recipe")),
    )


def prefix_key(row: Row) -> str:
    """Name the frozen prefix that the trial has in common with others of its study; "" without one."""
    backbone, depth = row.get("backbone"), row.get("unfreeze_depth")
    if not backbone or depth is None or str(depth) == ALL or row.get("regime") in NOTHING_FROZEN:
        return ""
    return f"{backbone} {row.get('head_pooling') or 'average'}"


def _merit(row: Row, metric: str, sign: float) -> float:
    value = row.get(metric)
    return -np.inf if value is None else sign * float(value)
