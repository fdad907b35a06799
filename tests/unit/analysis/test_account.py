"""The report tells in plain sentences what the search did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.reading import load_study
from analysis.report import write_report
from analysis.report.account import tell_search
from analysis.report.findings import find_out
from tests.study_factory import FakeTrial, make_study
from tests.unit.analysis.test_probe_lines import probe, record


def trial(depth: int | str, value: float, outcome: str | None = "complete", **attributes: Any) -> FakeTrial:
    config = {"unfreeze_depth": depth, "backbone": attributes.pop("backbone", "lite0")}
    return FakeTrial(curve=[value], outcome=outcome, config=config, attributes=attributes)


TRIALS = (
    trial(0, 0.7, recipe="linear head"),
    trial(4, 0.9, recipe="top stages"),
    trial(1, 0.95, backbone="lite2"),
    trial("all", 0.3, "pruned", reason="under 1% chance after epoch 1 to end above trial 1"),
    trial(1, 0.8, "pruned", reason="paused: 12% chance after epoch 2 to end above trial 2", backbone="lite2"),
    trial(1, 0.8, "failed", reason="diverged"),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_study(tmp_path / "s", TRIALS)


def test_it_tells_what_was_trained_and_why_trials_ended(directory: Path) -> None:
    depths, endings = tell_search(find_out(load_study(directory)))

    assert depths == (
        "What the trials trained: the head alone (1), the top stage (3), the top 4 stages (1), the whole "
        "network (1); the best one trains the top stage."
    )
    assert endings == (
        "3 of 6 trials ran to their end (2 recipes among them); 1 stopped early (such as trial 3: under 1% "
        "chance after epoch 1 to end above trial 1); 1 paused and not worth going on with (such as trial 4: "
        "12% chance after epoch 2 to end above trial 2); 1 failed."
    )


def test_it_tells_what_the_probes_taught(directory: Path) -> None:
    record(directory, *(probe(number) for number in range(2)))  # lite0 and lite2

    judged, lesson, *_ = tell_search(find_out(load_study(directory)))

    assert judged.startswith(
        "Before anything was unfrozen, it judged 2 heads on frozen features in 0.5 s; best"
    )
    assert lesson == (
        "They favour lite2 (best head of each backbone: lite2 87.4%, lite0 86.0%): 2 of the 4 proposed "
        "trials use it."
    )


def test_heads_of_one_backbone_favour_none(directory: Path) -> None:
    record(directory, probe(0))

    assert not any("favour" in sentence for sentence in tell_search(find_out(load_study(directory))))


def test_the_report_has_the_section_behind_the_answer(directory: Path) -> None:
    page = write_report(directory).read_text(encoding="utf-8")

    assert page.index("The answer") < page.index("What the search did") < page.index("3 of 6 trials ran")


def test_a_study_without_trials_has_nothing_to_tell(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [])

    assert tell_search(find_out(load_study(directory))) == []
