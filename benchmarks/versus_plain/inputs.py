"""Input of both sides of the speed comparison: cases, and images and trials drawn from seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.datasets import find_images

NUM_STAGES = 8
"""Stages of EfficientNet-Lite0, which both sides train: unfreezing 8 trains all of it."""

VAL_SHARE = 0.2
RATES = ((0, (3e-4, 1e-2)), (3, (1e-4, 2e-3)), (NUM_STAGES, (5e-5, 5e-4)))
"""(deepest, range of learning rates): what trains more pretrained layers at a head's rate diverges."""
BATCH_SIZES, DROPOUTS = (16, 32, 64), (0.0, 0.2, 0.5)
GOLDEN_RATIO = 0.6180339887
POLICIES = ("light",)
"""One policy: each more multiplies the distinct views, so the work that cannot be shared."""

Images = dict[str, list[list[Any]]]
"""`train` and `val`: lists of [path, class number]."""
Trial = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A list of trials that both sides run, drawn from a seed."""

    name: str
    num_trials: int
    depths: tuple[int, ...]
    target: float | None = None
    """The least ratio that counts as reached."""


CASES = (
    Case(name="frozen32", num_trials=32, depths=(0,), target=40),
    Case(name="frozen256", num_trials=256, depths=(0,), target=200),
    Case(name="depths3", num_trials=16, depths=(0, 1, 2, 3), target=8),
    Case(name="depths_all", num_trials=16, depths=tuple(range(NUM_STAGES + 1)), target=1.8),
    Case(name="full", num_trials=8, depths=(NUM_STAGES,), target=1.3),
)
JOINT_DEPTHS = (0, 1, 2, 3, 4)
"""Depths of `--space demo`."""


def default_data() -> Path:
    """Folder of the flowers5 photos; the tests look in the same place."""
    root = os.environ.get("UNFREEZE_DATA", Path(__file__).parents[3] / "shared" / "data")
    return Path(root) / "flowers5"


def cache_folder() -> Path:
    """Folder for images that are downloaded or written by us."""
    return Path(os.environ.get("UNFREEZE_CACHE", "~/.cache/unfreeze")).expanduser()


def draw_images(data: str, *, num_images: int, seed: int) -> Images:
    """Draw the same number of images of every class, a fifth of them for validation.

    Raises:
        ValueError: a class has too few images, or the data cannot be listed.
    """
    listing = find_images(data, cache_dir=cache_folder())
    num_each = num_images // len(listing.classes)
    num_val = max(1, round(VAL_SHARE * num_each))
    if num_each < 2:
        raise ValueError(f"--images must be at least two a class, {2 * len(listing.classes)} in all")
    dice = random.Random(seed)
    drawn: Images = {"train": [], "val": []}
    for label, name in enumerate(listing.classes):
        paths = sorted(
            str(path) for path, own in zip(listing.paths, listing.labels, strict=True) if own == label
        )
        if len(paths) < num_each:
            raise ValueError(
                f"class {name} has {len(paths)} images, {num_each} are wanted: lower --images {num_images}"
            )
        rows = [[path, label] for path in dice.sample(paths, num_each)]
        drawn["train"] += rows[num_val:]
        drawn["val"] += rows[:num_val]
    return drawn


def draw_test_images(data: str, images: Images, *, num_images: int, seed: int) -> list[list[Any]]:
    """Draw photos that neither trained nor validated, as many of every class: [path, class number].

    Raises:
        ValueError: a class has too few left.
    """
    listing = find_images(data, cache_dir=cache_folder())
    used = {path for rows in images.values() for path, _ in rows}
    num_each, dice = num_images // len(listing.classes), random.Random(seed)
    drawn: list[list[Any]] = []
    for label, name in enumerate(listing.classes):
        own = zip(listing.paths, listing.labels, strict=True)
        left = sorted(str(path) for path, number in own if number == label and str(path) not in used)
        if len(left) < num_each:
            raise ValueError(f"class {name} has {len(left)} more images for the test, {num_each} are wanted")
        drawn += [[path, label] for path in dice.sample(left, num_each)]
    return drawn


def draw_trials(num_trials: int, *, depths: Sequence[int], policies: Sequence[str], seed: int) -> list[Trial]:
    """Draw a list of configurations; a longer list begins with the shorter one.

    Steps of the golden ratio spread the depths evenly over the list and over each beginning of it.
    """
    dice = random.Random(seed)
    places = [int((number + 0.4) * GOLDEN_RATIO % 1 * len(depths)) for number in range(num_trials)]
    return [_draw_trial(dice, depths[place], policies) for place in places]


def _draw_trial(dice: random.Random, depth: int, policies: Sequence[str]) -> Trial:
    low, high = next(rates for deepest, rates in RATES if depth <= deepest)
    return {
        "unfreeze_depth": depth,
        "learning_rate": float(f"{low * (high / low) ** dice.random():.4g}"),
        "batch_size": dice.choice(BATCH_SIZES),
        "dropout": dice.choice(DROPOUTS),
        "policy": dice.choice(policies),
    }


def joint_space(depths: Sequence[int], policies: Sequence[str]) -> dict[str, Any]:
    """Make the space of the free search: lists are choices, learning_rate the ends of a logarithmic range."""
    return {
        "unfreeze_depth": list(depths),
        "learning_rate": [1e-4, 1e-2],
        "batch_size": list(BATCH_SIZES),
        "dropout": list(DROPOUTS),
        "policy": list(policies),
    }


def published_recipes(space: dict[str, Any]) -> list[Trial]:
    """The recipes that `--space demo` starts from (Kornblith et al. 2019), as far as the space holds them."""
    shared = {"batch_size": 32, "dropout": 0.2, "policy": space["policy"][0]}
    recipes = [
        {**shared, "unfreeze_depth": 0, "learning_rate": 3e-3},
        {**shared, "unfreeze_depth": 4, "learning_rate": 1.5e-3},
    ]
    return [recipe for recipe in recipes if recipe["unfreeze_depth"] in space["unfreeze_depth"]]


def distinct_views(trials: Sequence[Trial], images: Images, *, epochs: int) -> tuple[dict[int, int], int]:
    """Count the distinct images that each depth's frozen prefix must see, by depth, and in all."""
    num_train, num_val = len(images["train"]), len(images["val"])
    used = {(trial["unfreeze_depth"], trial["policy"]) for trial in trials}
    views = {policy: 1 if policy == "none" else epochs for _, policy in used}
    by_depth = {
        depth: num_val + num_train * sum(views[policy] for own, policy in used if own == depth)
        for depth in sorted({depth for depth, _ in used})
    }
    return by_depth, num_val + num_train * sum(views.values())
