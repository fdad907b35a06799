"""Probes survive the way through Ray and JSON, and hold what a frozen head has a use for."""

import json

import pytest

from contract.messages import Lease, Report, make_result, read_reports
from contract.probes import (
    LeasedProbe,
    ProbeReport,
    frozen_head,
    has_frozen_head,
    make_probe_result,
    read_probe_reports,
)
from contract.trial_config import TrialConfig, config_as_dict, make_trial_config


def test_a_lease_of_probes_survives_json() -> None:
    lease = Lease(trials=(), probes=(LeasedProbe(probe=3, config={"backbone": "lite0", "dropout": 0.1}),))

    config = json.loads(json.dumps(lease.as_config({})))

    assert Lease.from_config(config) == lease


def test_reports_of_probes_survive_json_and_are_none_of_trials() -> None:
    reports = [
        ProbeReport(probe=0, metrics={"val_accuracy": 0.5}, seconds=0.2),
        ProbeReport(probe=1, error="KeyError: no such layer"),
    ]

    result = json.loads(json.dumps(make_probe_result(reports, over=True)))

    assert read_probe_reports(result) == reports
    assert read_reports(result) == [] and result["over"]
    assert read_probe_reports(make_result([Report(trial=0, attempt=1, epoch=1)])) == []


def test_no_probe_draws_the_numbers_of_a_trial() -> None:
    assert [LeasedProbe(probe=number, config={}).draw for number in range(3)] == [-1, -2, -3]


def test_a_frozen_head_keeps_what_it_can_learn_from_and_nothing_of_the_backbone() -> None:
    deep = TrialConfig(
        backbone="lite1",
        regime="two_phase",
        unfreeze_depth="all",
        policy="strong",
        mixup_alpha=0.2,
        minority_policy="flip",
        layer_decay=0.7,
        head_width=128,
        dropout=0.3,
        learning_rate=0.01,
        initial_head="probe",
    )

    head = make_trial_config(frozen_head(config_as_dict(deep)))

    expected = TrialConfig(
        backbone="lite1",
        regime="linear_probe",
        unfreeze_depth=0,
        head_width=128,
        dropout=0.3,
        learning_rate=0.01,
    )
    assert head == expected


@pytest.mark.parametrize(
    ("config", "has_one"),
    [
        ({"regime": "finetune"}, True),
        ({"regime": "gradual", "head_pooling": "average"}, True),
        ({"regime": "scratch"}, False),
        ({"regime": "knn"}, False),
        ({"regime": "linear_probe", "head_pooling": "flatten"}, False),
    ],
)
def test_a_head_without_pooled_features_of_a_pretrained_backbone_is_no_probe(
    config: dict[str, str], has_one: bool
) -> None:
    assert has_frozen_head(config) is has_one


@pytest.mark.parametrize(
    "config",
    [
        {"regime": "scratch", "unfreeze_depth": "all"},
        {"regime": "knn", "unfreeze_depth": 0},
        {"head_pooling": "flatten"},
    ],
)
def test_an_initial_head_that_makes_no_sense_is_refused_in_one_line(config: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match="initial_head='probe' needs a head on pooled features") as error:
        make_trial_config({"backbone": "lite0", "initial_head": "probe", **config})

    assert "\n" not in str(error.value)
