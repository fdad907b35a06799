"""Intervals and tests whose units are groups of images: single images change nothing, groups widen."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.comparison import (
    MOST_FLIPPED,
    compare_predictions,
    confidence_interval,
    describe_test,
    mcnemar,
    mcnemar_of_groups,
    number_groups,
    resample,
    wilson_of_groups,
)
from analysis.image_table import load_groups, load_image_table
from analysis.predictions import Array, Predictions
from contract.intervals import wilson
from contract.metrics import Direction, direction_of, ranking_metrics


def predict(right: Array, *, groups: Array | None = None, classes: int = 3) -> Predictions:
    """Confident answers, right where asked."""
    labels = np.arange(len(right)) % classes
    answers = np.where(right, labels, (labels + 1) % classes)
    probabilities = np.full((len(right), classes), 0.1, dtype=np.float32)
    probabilities[np.arange(len(right)), answers] = 1 - 0.1 * (classes - 1)
    return Predictions(np.arange(len(right)), labels, np.log(probabilities), groups)


@pytest.mark.parametrize("metric", ranking_metrics())
def test_groups_of_single_images_give_exactly_the_figures_without_groups(metric: str) -> None:
    generator = np.random.default_rng(1)
    first, second = (predict(generator.random(150) < rate) for rate in (0.9, 0.8))
    singles = generator.permutation(1000)[:150]  # numbers in any order and with gaps
    direction = direction_of(metric)

    plain = compare_predictions(first, second, metric=metric, direction=direction)
    grouped = compare_predictions(
        replace(first, groups=singles), replace(second, groups=singles), metric=metric, direction=direction
    )

    assert plain is not None and plain == grouped and not plain.is_grouped
    with_groups = confidence_interval(replace(first, groups=singles), metric=metric)
    assert confidence_interval(first, metric=metric) == with_groups


def test_the_resamples_of_single_images_are_those_of_version_0_2() -> None:
    generator = np.random.default_rng(7)

    drawn = next(resample(np.arange(20), seed=7))

    np.testing.assert_array_equal(drawn, np.bincount(generator.integers(0, 20, 20), minlength=20))


def test_a_resample_draws_whole_groups() -> None:
    groups = np.array([0, 1, 1, 2, 0])

    for weights, _ in zip(resample(groups, seed=0), range(50), strict=False):
        assert weights[0] == weights[4] and weights[1] == weights[2]
        assert weights[0] + weights[1] + weights[3] == 3


@pytest.mark.parametrize("metric", ["val_accuracy", "val_top3_accuracy", "val_macro_f1", "val_loss"])
def test_images_that_are_right_and_wrong_together_widen_the_interval(metric: str) -> None:
    of_group = np.random.default_rng(0).random(40) < 0.8
    found = predict(np.repeat(of_group, 10), classes=5)

    plain = confidence_interval(found, metric=metric)
    grouped = confidence_interval(replace(found, groups=np.repeat(np.arange(40), 10)), metric=metric)

    assert plain is not None and grouped is not None and plain[0] == grouped[0]
    assert grouped[2] - grouped[1] > 2 * (plain[2] - plain[1])


def test_ten_copies_of_each_image_are_as_sure_as_the_images_themselves() -> None:
    right = np.arange(60) >= 12

    low, high = wilson_of_groups(np.repeat(right, 10).astype(float), np.repeat(np.arange(60), 10))

    assert (low, high) == pytest.approx(wilson(48, 60), abs=0.01)


@pytest.mark.parametrize("hits", [0, 60])
def test_the_interval_of_none_or_all_right_counts_groups(hits: int) -> None:
    low, high = wilson_of_groups(np.full(60, hits > 0, dtype=float), np.repeat(np.arange(6), 10))

    assert (low, high) == pytest.approx(wilson(6 if hits else 0, 6))


def test_a_single_group_leaves_nearly_everything_open() -> None:
    right = np.arange(50) >= 5
    found = predict(right, groups=np.zeros(50, dtype=int))

    for metric in ("val_accuracy", "val_macro_f1", "val_loss"):
        interval = confidence_interval(found, metric=metric)
        assert interval is not None and interval[2] - interval[1] > 0.7
    tested = compare_predictions(
        found, predict(~right, groups=found.groups), metric="val_loss", direction=Direction.MINIMIZE
    )
    assert tested is not None and not tested.is_better and not tested.is_worse


def test_by_groups_mcnemar_has_known_values() -> None:
    groups = np.repeat(np.arange(4), 5)

    assert mcnemar_of_groups(np.ones(20, dtype=int), groups) == pytest.approx(2 / 2**4)
    assert mcnemar_of_groups(np.zeros(20, dtype=int), groups) == 1.0
    # Sums 3, 1 and -1: of the eight totals ±3±1±1 six reach 3 in absolute value.
    sums = np.array([1, 1, 1, 1, 0, -1]), np.array([0, 0, 0, 1, 1, 2])
    assert mcnemar_of_groups(*sums) == pytest.approx(6 / 8)


def test_of_single_images_it_is_mcnemars_test_and_of_many_groups_the_normal_one() -> None:
    differences = np.array([1] * 17 + [-1] * 5 + [0] * 30)
    many = np.array([1] * 1200 + [-1] * 1100)
    pairs = np.append(np.arange(len(many)), 0), np.append(many, 0)

    assert mcnemar_of_groups(differences, np.arange(52)) == mcnemar(17, 5)
    assert len(many) > MOST_FLIPPED
    assert mcnemar_of_groups(pairs[1], pairs[0]) == pytest.approx(mcnemar(1200, 1100), abs=2e-3)


def test_a_difference_on_one_group_is_no_evidence() -> None:
    groups = np.repeat(np.arange(12), 10)
    first, second = predict(groups >= 1, groups=groups), predict(groups >= 2, groups=groups)

    tested = compare_predictions(first, second, metric="val_accuracy", direction=Direction.MAXIMIZE)

    assert tested is not None and not tested.is_better and tested.only_first_right == 10
    text = describe_test(tested, first="a", second="b")
    assert "on 120 validation images in 12 groups" in text and "McNemar by groups p = 1.000" in text


def test_where_two_studies_group_differently_the_fewer_groups_count() -> None:
    groups = np.repeat(np.arange(12), 10)
    first, second = predict(groups >= 1, groups=groups), predict(groups >= 2)

    for one, other in ((first, second), (second, first)):
        tested = compare_predictions(one, other, metric="val_accuracy", direction=Direction.MAXIMIZE)
        assert tested is not None and tested.num_groups == 12


def write_table(study: Path, header: str, rows: list[str]) -> None:
    (study / "data.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_a_table_without_groups_has_an_image_a_group(tmp_path: Path) -> None:
    write_table(tmp_path, "id,path,label,split", ["0,/a.jpg,0,train", "1,/b.jpg,0,val"])

    table = load_image_table(tmp_path)

    assert table.groups.tolist() == [0, 1] and not table.is_grouped
    assert load_groups(tmp_path) is None
    assert table.leaked("val").tolist() == []


def test_groups_and_leaks_are_read_from_the_table(tmp_path: Path) -> None:
    header = "id,path,label,split,group,digest,class"
    rows = ["1,/b.jpg,0,val,7,bb,cat", "0,/a.jpg,0,train,7,aa,cat", "2,/c.jpg,1,val,9,cc,dog"]
    write_table(tmp_path, header, rows)

    table, groups = load_image_table(tmp_path), load_groups(tmp_path)

    assert table.groups.tolist() == [7, 7, 9] and table.is_grouped and table.num_groups == 2
    assert table.leaked("val").tolist() == [1] and table.leaked("test").tolist() == []
    assert groups is not None and groups.tolist() == [7, 7, 9]
    with (tmp_path / "data.csv").open(newline="", encoding="utf-8") as lines:
        assert len(list(csv.reader(lines))) == 4


def test_groups_are_numbered_from_0_whatever_their_names() -> None:
    found = number_groups(predict(np.ones(4, dtype=bool), groups=np.array([70, 5, 70, 9])))

    assert found.tolist() == [2, 0, 2, 1]
