"""The contract of a search space: the names in its file, and the facts about the data that it gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts about the data that a published recipe may depend on."""

    num_train: int
    """Number of training images."""

    num_classes: int
    median_pixels: int
    """Median height x width of the original images, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings of a study of this space, unless a flag says otherwise."""

    trials: int
    max_epochs: int | None = None
    """Full budget of a trial; None = the space's file has a function `max_epochs(facts)`."""

    image_size: int | None = None
    """Side of the square the network sees, in pixels; None = the space's file has `image_size(facts)`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published configuration, tried first."""

    name: str
    source: str
    """Paper or repository the values come from."""

    config: dict[str, Any]
    systems: tuple[str, ...] = ()
    """Published systems that this recipe reproduces, by their ids in `search_spaces/_systems.py`."""

    epochs: int | None = None
    """Published budget, as a fact; the study's own budget holds, and phases keep their shares of it."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A loaded search space: the module-level names of its file."""

    name: str
    summary: str
    """First line of the file's docstring."""

    backbones: tuple[str, ...]
    defaults: Defaults
    suggest: Callable[..., dict[str, Any]]
    """`space(trial, backbones=…, max_epochs=…)`: suggests what varies, returns what is fixed."""

    recipes: Callable[..., list[Recipe]]
    """`recipes(facts, backbones=…, max_epochs=…)`."""

    widths: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of a step away from a known configuration, as a share of a hyperparameter's range on
    its own scale; where there is none, the searcher's own holds."""

    image_size_rule: Callable[[DataFacts], int] | None = None
    max_epochs_rule: Callable[[DataFacts], int] | None = None

    def image_size(self, facts: DataFacts) -> int:
        """Return the space's image size in pixels, at most eight times the originals' side.

        Enlarging small originals further costs time and adds no information.
        """
        if self.image_size_rule is not None:
            return self.image_size_rule(facts)
        largest = int(8 * facts.median_pixels**0.5) // 32 * 32
        return max(32, min(self.defaults.image_size or 224, largest))

    def max_epochs(self, facts: DataFacts) -> int:
        """Return the epochs of a trial that is never stopped."""
        if self.max_epochs_rule is not None:
            return self.max_epochs_rule(facts)
        return self.defaults.max_epochs or 10

    def propose(self, trial: Trial, *, backbones: Sequence[str], max_epochs: int) -> dict[str, Any]:
        """Make a whole configuration: the suggested values over the fixed ones."""
        fixed = self.suggest(trial, backbones=backbones, max_epochs=max_epochs)
        return {**fixed, **trial.params, "max_epochs": max_epochs}


def widths_of_rates(low: float, high: float) -> dict[str, float]:
    """Widths of a space with these learning rates: a step doubles or halves the rate, whatever the range."""
    return {"learning_rate": math.log(2) / math.log(high / low)}
