"""The report of studies of every kind: each page is whole, useful and self-contained."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from analysis.report import write_report
from tests.study_factory import FakeTrial, make_study

pytestmark = pytest.mark.slow
NAN = float("nan")
VOID = {"meta", "link", "img", "input", "br"}


class PageChecker(HTMLParser):
    """Checks that tags nest; collects ids, text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[name]) for name in ("src", "href") if name in values]
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report_of(directory: Path) -> str:
    """The page's text without scripts, after checking that it is whole and needs nothing else."""
    page = write_report(directory).read_text(encoding="utf-8")
    checker = PageChecker()
    checker.feed(page)
    assert checker.open == []
    assert {"answer", "leaderboard", "history", "classes", "data", "failures", "provenance"} <= set(
        checker.ids
    )
    assert all(address.startswith(("#", "data:")) for address in checker.addresses)
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        json.loads(data)
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def write_predictions(directory: Path, trial: int, labels: Any, answers: Any, *, classes: int) -> None:
    probabilities = np.full((len(labels), classes), 0.2 / classes)
    probabilities[np.arange(len(labels)), answers] = 0.8
    np.savez(
        directory / "trials" / str(trial) / "predictions.npz",
        ids=np.arange(7, 7 + len(labels)),
        labels=np.asarray(labels),
        log_probabilities=np.log(probabilities).astype(np.float32),
    )


def searched(number: int, *curve: float, **keywords: Any) -> FakeTrial:
    config = {
        "unfreeze_depth": number % 3,
        "dropout": 0.05 * (number % 7),
        "batch_size": 16 * (1 + number % 2),
    }
    distributions = {
        "unfreeze_depth": CategoricalDistribution((0, 1, 2)),
        "dropout": FloatDistribution(0, 0.5),
        "batch_size": CategoricalDistribution((16, 32)),
    }
    return FakeTrial(curve=curve, config=config, distributions=distributions, **keywords)


def test_an_empty_study_says_so(tmp_path: Path) -> None:
    text = report_of(make_study(tmp_path / "s", []))

    assert "No trial has started yet, so there is no answer." in text


def test_one_trial_has_an_answer_with_an_interval_and_no_rival(tmp_path: Path) -> None:
    text = report_of(make_study(tmp_path / "s", [FakeTrial(curve=[0.5, 0.8])]))

    assert "Trial 0 is best" in text
    assert "80.0% of 30 validation images right (95% interval 62.7% to 90.5%)" in text
    assert "There is no second trial" in text


def test_a_study_whose_trials_all_failed_shows_why(tmp_path: Path) -> None:
    broken = {"reason": "diverged", "traceback": "Traceback: <loss> is NaN"}
    trials = [FakeTrial(curve=[NAN], outcome="failed", attributes=broken) for _ in range(3)]

    text = report_of(make_study(tmp_path / "s", trials))

    assert "of 3 trials none has ended with a result (3 failed). The commonest reason: diverged." in text
    assert "&lt;loss&gt; is NaN" in text


def test_a_class_that_is_never_predicted_is_named(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.6])])
    labels = np.arange(30) % 3
    write_predictions(directory, 0, labels, np.where(labels == 2, 0, labels), classes=3)

    text = report_of(directory)

    assert "Never predicted: tulipán." in text
    assert "it is weakest on tulipán (0% found, most often taken for daisy)" in text


def test_three_hundred_classes_fit_into_a_page(tmp_path: Path) -> None:
    names = [f"Klasse {number}" for number in range(300)]
    data = {"source": "/x", "fingerprint": "f", "classes": names}
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.6])], data=data)
    labels = np.arange(900) % 300
    write_predictions(directory, 0, labels, (labels + (np.arange(900) < 9)) % 300, classes=300)

    text = report_of(directory)

    assert "the other 275 classes" in text
    assert (directory / "report.html").stat().st_size < 15e6


def test_names_of_any_alphabet_and_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ["花<b>", "ромашка</script>", "ürün & co"]
    data = {"source": "/x/<花>", "fingerprint": "f", "classes": names}

    text = report_of(make_study(tmp_path / "étude <1>", [FakeTrial(curve=[0.5])], data=data))

    assert "ромашка&lt;/script&gt;" in text
    assert "étude &lt;1&gt;" in text


def test_missing_predictions_leave_the_rest_of_the_page(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.5]), FakeTrial(curve=[0.7])])
    for path in directory.glob("trials/*/predictions.npz"):
        path.unlink()

    text = report_of(directory)

    assert "its predictions are missing" in text
    assert "cannot be said: both would need saved predictions" in text
    assert "The best trial has left no predictions" in text


def test_a_mixed_study_has_every_figure(tmp_path: Path) -> None:
    trials = [searched(i, 0.3 + 0.1 * (i % 3), 0.4 + 0.1 * (i % 3) + 0.01 * i) for i in range(10)]
    trials += [searched(10, 0.2, outcome="pruned"), searched(11, outcome="infeasible")]
    trials += [searched(12, 0.3, NAN, outcome="failed", attributes={"reason": "data"})]
    trials += [searched(13, 0.3, outcome=None)]

    page = write_report(make_study(tmp_path / "s", trials)).read_text(encoding="utf-8")

    labels = re.findall(r'class="plot" role="img" aria-label="([^"]+)"', page)
    for wanted in (
        "Importance",
        "Parallel",
        "Rank",
        "Slices",
        "Contour",
        "Learning",
        "Confusion",
        "Calibration",
    ):
        assert any(label.startswith(wanted) for label in labels), wanted
    assert "What mattered most was unfreeze depth" in page


def test_a_loss_is_minimised_and_never_shown_in_percent(tmp_path: Path) -> None:
    trials = [FakeTrial(curve=[0.5]), FakeTrial(curve=[0.9])]

    text = report_of(make_study(tmp_path / "s", trials, metric="val_loss", direction="minimize"))

    assert "Trial 1 is best" in text
    assert re.search(r"it reaches val_loss \d\.\d{4} on 30 validation images", text)
