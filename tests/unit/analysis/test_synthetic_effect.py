"""Whether synthetic images helped: which trials are compared, and what is said of the result."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from analysis.leaderboard import load_leaderboard, print_leaderboard
from analysis.reading import load_study
from analysis.report import write_report
from analysis.synthetic_images import SyntheticEffect, find_effect
from tests.study_factory import CLASSES, FakeTrial, make_study

FACTS: dict[str, Any] = {
    "source": "/images",
    "fingerprint": "f",
    "generator": "a GAN",
    "images": {"rose": 40},
}
FACTS["quality"] = {"overall": {"coverage": 0.25}, "classes": {"rose": {"collapsed": "few kinds"}}}


def trial(value: float, **config: Any) -> FakeTrial:
    return FakeTrial(curve=(value,), config={"learning_rate": 1e-3, **config})


def effect_of(directory: Path) -> SyntheticEffect | None:
    study = load_study(directory)
    return find_effect(study, load_leaderboard([study]))


def set_right(directory: Path, number: int, right: np.ndarray[Any, Any]) -> None:
    """Rewrite a trial's predictions: which of the 30 validation images are right."""
    path = directory / "trials" / str(number) / "predictions.npz"
    with np.load(path) as file:
        found = dict(file)
    labels = found["labels"]
    predicted = np.where(right, labels, (labels + 1) % 3)
    values = np.full((30, 3), 0.1, dtype=np.float32)
    values[np.arange(30), predicted] = 0.8
    np.savez(path, **found | {"log_probabilities": np.log(values)})


def test_of_trials_that_differ_in_the_share_alone_the_pair_with_the_best_mean_is_compared(
    tmp_path: Path,
) -> None:
    trials = [
        trial(0.5),
        trial(0.6, synthetic_share=0.5),
        trial(0.8, dropout=0.5),
        trial(0.7, dropout=0.5, synthetic_share=1.0),
        trial(0.9, dropout=0.2, synthetic_share=1.0),
        trial(0.95, dropout=0.1),
    ]

    effect = effect_of(make_study(tmp_path / "s", trials))

    assert effect is not None and effect.are_twins
    assert (effect.trial["trial"], effect.rival["trial"]) == (3, 2)
    assert (effect.num_twins, effect.num_twins_better) == (2, 1)
    assert "differ in synthetic_share alone" in effect.chosen_how
    assert effect.sentence.startswith("Synthetic images made no difference beyond chance: trial 3")


def test_without_such_a_pair_the_best_with_and_without_of_one_backbone_are_compared(tmp_path: Path) -> None:
    trials = [
        trial(0.9, backbone="lite1", synthetic_share=1.0),
        trial(0.5, dropout=0.1),
        trial(0.7),
        trial(0.6, synthetic_share=1.0, dropout=0.5),
    ]

    effect = effect_of(make_study(tmp_path / "s", trials))

    assert effect is not None and not effect.are_twins
    assert (effect.trial["trial"], effect.rival["trial"]) == (3, 2)
    assert "other hyperparameters" in effect.chosen_how


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.5, 1.0)])
def test_nothing_is_said_where_all_trials_or_none_used_synthetic_images(
    tmp_path: Path, shares: tuple[float, float]
) -> None:
    study = make_study(tmp_path / "s", [trial(0.5, synthetic_share=share) for share in shares])

    assert effect_of(study) is None


def test_a_class_that_gains_beyond_chance_is_named_and_the_others_are_not(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [trial(0.5), trial(0.6, synthetic_share=1.0)])
    labels = np.arange(7, 37) % 3
    set_right(study, 0, labels != 1)
    set_right(study, 1, np.ones(30, dtype=bool))

    effect = effect_of(study)

    assert effect is not None
    assert effect.sentence.startswith("Synthetic images helped: trial 1")
    open_ones = "no difference beyond chance"
    assert [one.verdict for one in effect.classes] == [open_ones, "better", open_ones]
    assert effect.name_classes(CLASSES) == "By class better: rose (recall 0.0% to 100.0%, p = 0.006)."


def test_harm_is_called_harm(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [trial(0.6), trial(0.5, synthetic_share=1.0)])
    set_right(study, 0, np.ones(30, dtype=bool))
    set_right(study, 1, np.arange(30) % 2 == 0)

    effect = effect_of(study)

    assert effect is not None
    assert effect.sentence.startswith("Synthetic images did harm: trial 0 (synthetic_share 0) is better")


def test_report_and_leaderboard_tell_of_them_and_are_silent_where_no_trial_used_any(tmp_path: Path) -> None:
    trials = [trial(0.5), trial(0.6, synthetic_share=1.0)]
    data = {"classes": list(CLASSES), "contents": "c", "fingerprint": "s", "num_val": 30, "synthetic": FACTS}
    study = make_study(tmp_path / "with", trials, data=data)
    other = make_study(tmp_path / "without", trials[:1])

    pages = [write_report(one).read_text(encoding="utf-8") for one in (study, other)]
    said = []
    for one in (study, other):
        console = Console(width=200, file=io.StringIO())
        print_leaderboard(one, console=console)
        said.append(" ".join(console.file.getvalue().split()))  # type: ignore[attr-defined]

    assert "40 synthetic images by a GAN (rose 40)" in pages[0]
    assert "coverage 0.25" in pages[0] and "Collapsed: rose, few kinds." in pages[0]
    assert "Synthetic images made no difference beyond chance" in pages[0]
    assert "Synthetic images" not in pages[1]
    assert "Synthetic images made no difference" in said[0]
    assert "By class no difference is beyond chance" in said[0]
    assert "ynthetic images" not in said[1]
