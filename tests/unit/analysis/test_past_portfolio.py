"""What is learned from past studies: which configurations, in which order, and what is left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.portfolio import MOST_TRIALS, PastTrial, choose_trials, place_configs, read_past_trials
from analysis.reading import load_study
from contract.portfolio import Portfolio
from tests.study_factory import FakeTrial, make_study


def past(data: str, score: float, *, is_recipe: bool = False, **values: Any) -> PastTrial:
    name = f"{sorted(values.items())} of {data}"
    return PastTrial(name=name, data=data, values=values, score=score, is_recipe=is_recipe)


def on_a_grid(data: str, score: Mapping[float, float]) -> list[PastTrial]:
    """Trials at ten rates; all score 0.5 but those given, and the recipe, at the lowest, 0.6."""
    scores = dict.fromkeys((0.1 * n for n in range(1, 11)), 0.5) | {0.1: 0.6} | score
    return [past(data, value, rate=rate, is_recipe=rate == 0.1) for rate, value in scores.items()]


def test_each_configuration_adds_most_to_those_before_it() -> None:
    """High rates are best on two data sets, and a middling one on the third."""
    trials = [
        *on_a_grid("a", {1.0: 0.9, 0.9: 0.8}),
        *on_a_grid("b", {1.0: 0.9, 0.9: 0.8}),
        *on_a_grid("c", {0.5: 0.9, 0.6: 0.7}),
    ]

    first, second = choose_trials(trials, size=2)

    assert (first.values, second.values) == ({"rate": 1.0}, {"rate": 0.5})


def test_the_best_on_the_same_images_comes_first() -> None:
    trials = [
        *on_a_grid("a", {1.0: 0.9}),
        *on_a_grid("b", {1.0: 0.9}),
        *on_a_grid("here", {0.5: 0.9, 0.6: 0.7}),
    ]

    assert choose_trials(trials, size=1)[0].values == {"rate": 1.0}
    assert choose_trials(trials, size=1, here="here")[0].values == {"rate": 0.5}


def test_data_sets_count_alike_however_far_apart_their_scores_lie() -> None:
    trials = [
        *on_a_grid("wide", {0.7: 0.7, 0.8: 0.9, 0.9: 0.7}),
        *[
            PastTrial(
                name=one.name,
                data=f"narrow {n}",
                values=one.values,
                score=0.5 + one.score / 1000,
                is_recipe=one.is_recipe,
            )
            for n in (1, 2)
            for one in on_a_grid("", {0.3: 0.7, 0.4: 0.9, 0.5: 0.7})
        ],
    ]

    assert choose_trials(trials, size=1)[0].values == {"rate": 0.4}


def test_a_lucky_trial_among_bad_ones_is_not_believed() -> None:
    rates = np.linspace(0.0, 1.0, 41)
    scores = {float(rate): 0.5 + 0.3 * float(rate > 0.7) for rate in rates}
    lucky = float(rates[10])
    trials = [past("a", score, rate=rate) for rate, score in scores.items() if rate != lucky]
    trials.append(past("a", 0.82, rate=lucky))

    assert choose_trials(trials, size=1)[0].values["rate"] > 0.7


@pytest.mark.parametrize("size", [0, 1, 3])
def test_few_trials_or_equal_scores_still_give_an_order(size: int) -> None:
    assert choose_trials([], size=size) == []
    equal = [past("a", 0.5, rate=rate) for rate in (0.1, 0.2, 0.3)]
    assert len(choose_trials(equal, size=size)) <= size
    assert len(choose_trials(equal[:1], size=size)) <= size


def test_thousands_of_trials_are_thinned_out() -> None:
    dice = np.random.default_rng(0)
    trials = [past(data, float(-((r - 0.7) ** 2)), rate=float(r)) for data in "ab" for r in dice.random(2000)]

    found = choose_trials(trials, size=3)

    assert len(trials) > MOST_TRIALS
    assert found[0].values["rate"] == pytest.approx(0.7, abs=0.1)


def test_numbers_lie_by_their_rank_and_names_are_equally_far_apart() -> None:
    configs = [
        {"rate": 1e-5, "depth": 0, "policy": "none", "same": 1},
        {"rate": 1e-3, "depth": "all", "policy": "light", "same": 1},
        {"rate": 1e-1, "depth": 4, "policy": "strong", "same": 1},
    ]

    places = place_configs(configs)

    assert places[:, 0].tolist() == [0.0, 2.0, 1.0]
    names = places[:, 1:4]
    assert (
        len({round(float(np.linalg.norm(names[i] - names[j])), 6) for i, j in ((0, 1), (0, 2), (1, 2))}) == 1
    )
    assert sorted(places[:, 4].tolist()) == [0.0, 1.0, 2.0]


def test_trials_that_did_not_end_or_lack_the_metric_teach_nothing(tmp_path: Path) -> None:
    trials = [
        FakeTrial(curve=[0.2, 0.8], attributes={"recipe": "linear head"}),
        FakeTrial(curve=[0.6], attributes={"recipe": "trial 7 of older"}),
        FakeTrial(curve=[0.9], outcome="pruned"),
        FakeTrial(curve=[0.9], outcome=None),
        FakeTrial(curve=[], outcome="failed"),
    ]
    start = {"name": "trial 7 of older", "params": {}}
    study = load_study(make_study(tmp_path / "s", trials, warm_start=[start]))

    found = read_past_trials(study, "val_accuracy")
    losses = read_past_trials(study, "val_loss")

    assert [(one.name, one.score, one.is_recipe) for one in found] == [
        ("trial 0 of s", 0.8, True),
        ("trial 1 of s", 0.6, False),
    ]
    assert {one.data for one in found} == {"c1"}
    assert all(one.score < 0 for one in losses)
    assert found[0].values["backbone"] == "lite0"
    assert "max_epochs" not in found[0].values


def studies(folder: Path) -> list[Path]:
    rates = (1e-4, 2e-3, 1e-2)
    made = []
    for name, best in (("one", 2e-3), ("two", 2e-3), ("three", 1e-2)):
        trials = [FakeTrial(curve=[0.9 if r == best else 0.5], config={"learning_rate": r}) for r in rates]
        data = {"source": name, "contents": name, "classes": ["a", "b"]}
        made.append(make_study(folder / name, trials, data=data))
    return made


def test_the_command_writes_a_file_that_can_be_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = studies(tmp_path)
    empty = make_study(tmp_path / "empty", [])

    code = main(["portfolio", *map(str, [*made, empty, made[0]]), "--out", str(tmp_path / "shared.json")])

    shown = capsys.readouterr()
    found = Portfolio.load(tmp_path / "shared.json")
    assert code == 0
    assert "empty teaches nothing" in shown.err
    assert "learned from 9 trials on 3 sets of images" in shown.out
    assert found.entries[0].values["learning_rate"] == 2e-3
    assert str(tmp_path) not in (tmp_path / "shared.json").read_text()


def test_the_command_refuses_what_it_cannot_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made, *_) = studies(tmp_path)
    out = ["--out", str(tmp_path / "shared.json")]
    damaged = tmp_path / "damaged"
    shutil.copytree(made, damaged)
    (damaged / "study.json").write_text(json.dumps({"study": "x"}))

    assert main(["portfolio", str(damaged), *out]) == 1
    assert "cannot be read as a study" in capsys.readouterr().err
    assert main(["portfolio", str(tmp_path / "nowhere"), *out]) == 2
    for flags in (["--metric", "accuracyy", *out], ["--out", str(tmp_path / "shared.txt")]):
        with pytest.raises(SystemExit) as stop:
            main(["portfolio", str(made), *flags])
        assert stop.value.code == 2
    assert not (tmp_path / "shared.json").exists()
