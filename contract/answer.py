"""The answer of a study as data: which trained classifiers are combined, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from contract.study_layout import StudyPaths, TrialPaths

Kind = Literal["trial", "final"]
View = Literal["", "flip"]


class Pooling(StrEnum):
    """How the members of a combination become one prediction; the values stand in answer.json."""

    PROBABILITIES = "probabilities"
    """The weighted mean of the probabilities."""

    LOGITS = "logits"
    """The softmax of the weighted mean of the log-probabilities, which are logits up to a constant."""


@dataclass(frozen=True, order=True)
class MemberRef:
    """One trained classifier, or one view of it."""

    kind: Kind
    """"trial" has its files in trials/, "final" in finals/."""

    number: int
    view: View = ""
    """"flip" mirrors the image before it is classified."""

    @property
    def name(self) -> str:
        """Name as people read it: "trial 7", "final 2, flipped"."""
        return f"{self.kind} {self.number}" + (", flipped" if self.view else "")

    def paths(self, study: StudyPaths) -> TrialPaths:
        """Files of the classifier that it is a view of."""
        return study.trial(self.number) if self.kind == "trial" else study.final(self.number)


@dataclass(frozen=True, kw_only=True)
class WeightedMember:
    """A member with its share in the prediction."""

    ref: MemberRef
    weight: float


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One classifier made of one or several trained ones."""

    members: tuple[WeightedMember, ...]
    """Their weights add up to 1."""

    pooling: Pooling = Pooling.PROBABILITIES
    temperature: float = 1.0
    """Divides the pooled log-probabilities, before they are normalised again."""

    @classmethod
    def single(cls, ref: MemberRef) -> Self:
        """Make the combination of one classifier alone."""
        return cls(members=(WeightedMember(ref=ref, weight=1.0),))

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        members = [
            {"kind": m.ref.kind, "number": m.ref.number, "view": m.ref.view, "weight": m.weight}
            for m in self.members
        ]
        return {"members": members, "pooling": self.pooling.value, "temperature": self.temperature}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_values` wrote."""
        members = tuple(
            WeightedMember(ref=MemberRef(m["kind"], m["number"], m["view"]), weight=m["weight"])
            for m in values["members"]
        )
        return cls(
            members=members, pooling=Pooling(values["pooling"]), temperature=float(values["temperature"])
        )


def pool_log_probabilities(
    log_probabilities: NDArray[np.floating], weights: Sequence[float] | NDArray[np.floating], pooling: Pooling
) -> NDArray[np.float64]:
    """Pool log-probabilities [members, images, classes] into those of the combination [images, classes].

    Args:
        weights: share of each member; they add up to 1.
    """
    shares = np.asarray(weights, dtype=np.float64)[:, None, None]
    values = np.asarray(log_probabilities, dtype=np.float64)
    if pooling is Pooling.LOGITS:
        return normalise((shares * values).sum(axis=0))
    with np.errstate(divide="ignore"):
        pooled: NDArray[np.float64] = np.log((shares * np.exp(values)).sum(axis=0))
    return pooled


def apply_temperature(log_probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Divide log-probabilities [images, classes] by the temperature and normalise them again."""
    return normalise(np.asarray(log_probabilities, dtype=np.float64) / temperature)


def normalise(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn logits [images, classes] into log-probabilities."""
    highest = logits.max(axis=1, keepdims=True)
    shifted = logits - np.where(np.isfinite(highest), highest, 0.0)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
