"""A metric is described by its row of METRICS and nowhere else."""

import pytest

from contract import metrics
from contract.metrics import (
    METRICS,
    Detail,
    Direction,
    Metric,
    Unit,
    check_objectives,
    direction_of,
    find_metric,
    is_better,
    is_share,
    ranking_metrics,
    shown_metrics,
)


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric that exists only in its row."""
    row = Metric(
        name="val_ece",
        title="val ece",
        unit=Unit.SHARE,
        meaning="expected calibration error on the validation images",
        maximize=False,
        ranks_trials=True,
        detail=Detail.SUMMARY,
    )
    monkeypatch.setitem(metrics.METRICS, row.name, row)
    return row


def test_a_row_is_enough_for_a_new_metric(calibration: Metric) -> None:
    check_objectives(["val_ece"])

    assert find_metric("val_ece") is calibration
    assert direction_of("val_ece") is Direction.MINIMIZE
    assert is_share("val_ece")
    assert "val_ece" in ranking_metrics()
    assert "val_ece" in shown_metrics(Detail.SUMMARY)
    assert "val_ece" not in shown_metrics(Detail.HEADLINE)


@pytest.mark.parametrize("name", METRICS)
def test_a_row_says_what_the_metric_is(name: str) -> None:
    row = METRICS[name]

    assert row.name == name == name.lower()
    assert row.title and row.meaning
    assert row.direction.sign == (1 if row.maximize else -1)
    assert row.about.startswith(row.meaning)
    assert str(row.unit) in row.about


def test_losses_and_costs_are_minimized_and_the_rest_is_maximized() -> None:
    minimized = {name for name, row in METRICS.items() if not row.maximize}

    costs = {"epoch_seconds", "peak_memory_gb", "parameters", "trainable_parameters"}
    assert minimized == {"val_loss", "train_loss"} | costs


def test_trials_are_ranked_by_what_was_measured_on_the_validation_images() -> None:
    assert set(ranking_metrics()) == {name for name in METRICS if name.startswith("val_")}


def test_the_metric_and_the_hyperparameter_learning_rate_have_different_names() -> None:
    assert "last_learning_rate" in METRICS
    assert "learning_rate" not in METRICS


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean val_accuracy"):
        find_metric("val_acuracy")
    with pytest.raises(ValueError, match="choose from val_accuracy"):
        find_metric("zzz")


@pytest.mark.parametrize("names", [["val_los"], ["train_accuracy"], ["val_accuracy", "val_los"]])
def test_an_objective_that_no_search_can_have_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="--metric must"):
        check_objectives(names)


def test_any_metric_may_be_a_further_objective() -> None:
    check_objectives(["val_accuracy", *(name for name in METRICS if name != "val_accuracy")])


@pytest.mark.parametrize(
    ("value", "than", "maximize", "expected"),
    [
        (0.5, None, True, True),
        (0.6, 0.5, True, True),
        (0.6, 0.5, False, False),
        (0.5, 0.5, True, False),
        (float("nan"), None, True, False),
        (float("inf"), 0.5, True, False),
    ],
)
def test_a_value_is_better_only_if_it_beats_the_best(
    value: float, than: float | None, maximize: bool, expected: bool
) -> None:
    assert is_better(value, than, maximize=maximize) is expected
