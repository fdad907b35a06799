"""The search gets the validation labels only where every trial looks at all validation images."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainables.data.manifest import Manifest
from wiring.search import find_val_groups, find_val_labels

MANIFEST = Manifest(
    paths=(),
    labels=np.array([2, 0, 1, 0]),
    splits=np.array(["val", "train", "val", "val"]),
    classes=("a", "b", "c"),
    contents="",
    fingerprint="",
    groups=np.arange(4),
    digests=("",) * 4,
)


def find(samples: list[dict[str, Any]], recipe: dict[str, Any]) -> list[int] | None:
    plan: Any = SimpleNamespace(samples=samples, recipes=[SimpleNamespace(config=recipe)])
    labels = find_val_labels(plan, MANIFEST)
    return None if labels is None else labels.tolist()


@pytest.mark.parametrize("count", [0, 3, 9])
def test_labels_are_in_the_order_of_the_split(count: int) -> None:
    assert find([{"validation_images": count}], {}) == [2, 1, 0]


@pytest.mark.parametrize(
    ("sample", "recipe"), [({"validation_images": 2}, {}), ({}, {"validation_images": 2})]
)
def test_there_are_none_where_trials_look_at_some_of_the_images(
    sample: dict[str, Any], recipe: dict[str, Any]
) -> None:
    assert find([sample], recipe) is None


def test_groups_of_the_validation_images_are_numbered_from_0_or_none() -> None:
    groups = np.array([7, 1, 9, 7])

    grouped = find_val_groups(replace(MANIFEST, groups=groups))

    assert grouped is not None and grouped.tolist() == [0, 1, 0]
    assert find_val_groups(MANIFEST) is None
