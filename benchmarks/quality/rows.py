"""The configurations of the table: those of `--space demo` on three backbones, the same for every set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from contract.trial_config import config_as_dict, make_trial_config
from search_spaces import DataFacts, load_space

SPACE = "demo"
BACKBONES = ("lite0", "lite1", "lite2")
IMAGE_SIZE, MAX_EPOCHS = 96, 6
VARIED = ("backbone", "unfreeze_depth", "batch_size", "learning_rate", "dropout", "head_width", "policy")
"""What the space suggests; the rest of a row is the same in all of them."""

NUM_FROZEN, NUM_DEEP = 1000, 200
REPEATED = {0: 10, 1: 25}
"""One frozen row (key 0) or deeper row (key 1) in so many has three seeds, as each recipe has."""

_BACKBONE_SHARES = {0: (0.6, 0.2, 0.2), 1: (0.7, 0.18, 0.12)}
"""Shares of BACKBONES among frozen (key 0) and deeper rows: a larger one takes up to twice as long."""
_DEPTH_SHARES = (0.45, 0.25, 0.15, 0.15)
"""Shares of the depths 1 to 4: a trial of the deepest takes six times as long as one of depth 1."""
_NEAR_RECIPE = 1 / 3
"""Share of the deeper rows that lie around the space's recipe, where searchers look closely."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration of the table."""

    number: int
    config: dict[str, Any]
    is_repeated: bool
    """It is recorded with three seeds."""

    @property
    def is_deep(self) -> bool:
        return bool(self.config["unfreeze_depth"])


@cache
def make_rows() -> tuple[Row, ...]:
    """All rows: the recipes, then frozen and deeper ones, so mixed that any beginning has both."""
    chosen = [(recipe_config(recipe.config), True) for recipe in recipes()]
    kinds = [[(config, at % REPEATED[deep] == 0) for at, config in enumerate(_draw(deep))] for deep in (0, 1)]
    every = NUM_FROZEN // NUM_DEEP
    for at in range(NUM_DEEP):
        chosen += [kinds[1][at], *kinds[0][at * every : (at + 1) * every]]
    return tuple(
        Row(number=number, config=config, is_repeated=is_repeated)
        for number, (config, is_repeated) in enumerate(chosen)
    )


def recipes() -> list[Any]:
    """The space's recipes, which run on its first backbone."""
    facts = DataFacts(num_train=1000, num_classes=5, median_pixels=40_000)
    return load_space(SPACE).recipes(facts, backbones=BACKBONES, max_epochs=MAX_EPOCHS)


def recipe_config(values: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration of the space with these values of what varies."""
    fixed = load_space(SPACE).suggest(_Given(values), backbones=BACKBONES, max_epochs=MAX_EPOCHS)
    config = make_trial_config({**fixed, **values, "max_epochs": MAX_EPOCHS})
    return config_as_dict(config)


class _Given:
    """A trial that takes given values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def suggest_categorical(self, name: str, _: Any) -> Any:
        return self._values[name]

    def suggest_float(self, name: str, *_: Any, **__: Any) -> Any:
        return self._values[name]


def _draw(deep: int) -> Iterator[dict[str, Any]]:
    dice = np.random.default_rng([2, deep])
    for _ in range(NUM_DEEP if deep else NUM_FROZEN):
        values: dict[str, Any] = {
            "backbone": BACKBONES[dice.choice(3, p=_BACKBONE_SHARES[deep])],
            "unfreeze_depth": 1 + int(dice.choice(4, p=_DEPTH_SHARES)) if deep else 0,
            "batch_size": int(dice.choice((16, 32, 64))),
            "learning_rate": float(f"{math.exp(dice.uniform(math.log(3e-4), math.log(1e-2))):.4g}"),
            "dropout": round(dice.uniform(0, 0.5), 3),
            "head_width": int(dice.choice((0, 128, 512))),
            "policy": str(dice.choice(("none", "light"))),
        }
        if deep and dice.random() < _NEAR_RECIPE:
            values["learning_rate"] = float(f"{1.5e-3 * math.exp(dice.normal(0, 0.4)):.4g}")
            values["dropout"] = round(float(np.clip(0.2 + dice.normal(0, 0.1), 0, 0.5)), 3)
            values["head_width"] = int(dice.choice((0, 0, 0, 128, 512)))
        yield recipe_config(values)
