"""Final trainings: what is trained anew of a study's chosen trials, on which images, with which draws."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

DRAWS_APART = 1_000_000
"""Distance between the numbers that a trial and its repetitions draw from; no study has as many trials."""


class FinalKind(StrEnum):
    """Kind of a final training; the values stand in study databases and must not change."""

    SEED = "seed"
    """The trial once more with other random draws."""

    FOLD = "fold"
    """The trial on all folds of train and validation images but one, which it predicts."""

    REFIT = "refit"
    """The trial on train and validation images together, which leaves none to judge it by."""

    SOUP = "soup"
    """The mean of several trials' weights: nothing is trained."""

    @property
    def is_out_of_sample(self) -> bool:
        """It predicts images that it was not trained on, so that it may be judged by them."""
        return self is not FinalKind.REFIT


@dataclass(frozen=True, kw_only=True)
class FinalTraining:
    """What distinguishes a final training from the trial whose configuration it has."""

    kind: FinalKind
    source: int
    """Number of that trial."""

    draw: int
    """Number that its random draws come from: the trial's own, or one that no trial has."""

    fold: int | None = None
    """Number of the fold that it predicts, from 0; only of a fold."""

    num_folds: int | None = None
    fixed_epochs: int | None = None
    """Number of epochs after which it ends, whatever its validation says; None = as the trial would.

    The schedule stays that of the trial's `max_epochs`, so a training that ends before them ends where the
    trial's kept epoch did.
    """

    val_losses: tuple[float, ...] = ()
    """The trial's own validation losses, one an epoch: a plateau schedule follows them where the epochs are
    fixed, because the training's own would be of images that it has seen or is to be judged by."""

    @classmethod
    def seed(cls, source: int, repetition: int) -> Self:
        """Make the repetition of a trial, which counts from 1."""
        return cls(kind=FinalKind.SEED, source=source, draw=source + DRAWS_APART * repetition)

    @classmethod
    def fold_of(
        cls, source: int, fold: int, num_folds: int, *, epochs: int, val_losses: tuple[float, ...] = ()
    ) -> Self:
        """Make the training that predicts one fold."""
        return cls(
            kind=FinalKind.FOLD,
            source=source,
            draw=source,
            fold=fold,
            num_folds=num_folds,
            fixed_epochs=epochs,
            val_losses=val_losses,
        )

    @classmethod
    def refit(cls, source: int, *, epochs: int, val_losses: tuple[float, ...] = ()) -> Self:
        """Make the training on train and validation images together."""
        return cls(
            kind=FinalKind.REFIT, source=source, draw=source, fixed_epochs=epochs, val_losses=val_losses
        )

    @classmethod
    def soup(cls, source: int, members: Iterable[str]) -> Self:
        """Make the average of the weights of `members`, of which trial `source` is the best alone."""
        drawn = zlib.crc32(" ".join(sorted(members)).encode())
        return cls(kind=FinalKind.SOUP, source=source, draw=drawn >> 1)

    @property
    def key(self) -> tuple[Any, ...]:
        """What two final trainings of a study must not share."""
        return self.kind, self.source, self.draw, self.fold, self.num_folds

    @property
    def name(self) -> str:
        """Name as people read it: "seed 2 of trial 7", "fold 1 of 5 of trial 7", "refit of trial 7"."""
        if self.kind is FinalKind.SEED:
            return f"seed {(self.draw - self.source) // DRAWS_APART} of trial {self.source}"
        if self.kind is FinalKind.FOLD:
            return f"fold {self.fold} of {self.num_folds} of trial {self.source}"
        return f"{self.kind} of trial {self.source}"

    def as_values(self) -> dict[str, Any]:
        """Return plain values for messages."""
        return asdict(self) | {"kind": self.kind.value, "val_losses": list(self.val_losses)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_values` wrote."""
        return cls(
            **{
                **values,
                "kind": FinalKind(values["kind"]),
                "val_losses": tuple(values.get("val_losses") or ()),
            }
        )
