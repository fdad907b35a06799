"""What leaderboard and report say of a study's probes, and that a study without any says nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console

from analysis.leaderboard import print_leaderboard
from analysis.probes import describe_probes
from analysis.reading import load_study
from analysis.report import is_current, write_report
from cluster.study.probe_records import PROBES, ProbeRecord, write_probes
from tests.study_factory import FakeTrial, make_study

HEADS = (("lite0", 128, 0.86, 0.42), ("lite2", 0, 0.874, 0.41), ("lite1", 256, 0.874, 0.39))


def record(directory: Path, *probes: ProbeRecord) -> None:
    engine = sa.create_engine(f"sqlite:///{directory / 'study.db'}")
    PROBES.create(engine, checkfirst=True)
    with engine.begin() as connection:
        write_probes(connection, 1, probes)
    engine.dispose()


def probe(number: int, **changes: Any) -> ProbeRecord:
    backbone, width, accuracy, loss = HEADS[number % len(HEADS)]
    values: dict[str, Any] = {
        "probe": number,
        "config": {"backbone": backbone, "head_width": width, "dropout": 0.1, "policy": "none"},
        "metrics": {"val_accuracy": accuracy, "val_loss": loss},
        "seconds": 0.25,
        "error": None,
        "worker": "localhost:1",
        "arrival": 1.0,
    }
    return ProbeRecord(**values | changes)


def test_one_line_says_how_many_how_long_and_which_was_best(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9])])
    record(directory, *(probe(number) for number in range(3)))

    line = describe_probes(load_study(directory))

    assert line == (
        "probes: 3 heads on frozen features in 0.8 s; best lite2, head width 0, dropout 0.1: 0.8740; "
        "lowest val_loss lite1, head width 256, dropout 0.1: 0.3900"
    )


def test_a_head_that_is_best_by_both_is_named_once_and_failed_ones_are_counted(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9])])
    best = {"backbone": "lite1", "policy": "light"}
    record(directory, probe(0, config=best), probe(1, metrics=None, error="Diverged: nan"))

    line = describe_probes(load_study(directory))

    assert line == (
        "probes: 2 heads on frozen features in 0.5 s, 1 of them failed; best lite1, policy light: 0.8600"
    )


def test_the_leaderboard_shows_the_line_above_its_table(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9])])
    record(directory, probe(0))
    console = Console(width=120, file=io.StringIO(), color_system=None)

    print_leaderboard(directory, console=console)

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert (
        shown.index("s: 1 trials") < shown.index("probes: 1 head on frozen features") < shown.rindex("trial ")
    )


def test_the_report_has_the_line_and_is_made_again_after_a_probe(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9])])
    record(directory, probe(0))
    before = write_report(directory).read_text(encoding="utf-8")
    record(directory, probe(1))

    is_stale = not is_current(directory)
    page = write_report(directory).read_text(encoding="utf-8")

    assert "it judged 1 head on frozen features in 0.2 s; best lite0" in before
    assert is_stale
    assert "it judged 2 heads on frozen features" in page


def test_a_study_without_probes_says_nothing(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9])])
    old = describe_probes(load_study(directory))
    record(directory)

    assert old == describe_probes(load_study(directory)) == ""
    assert "Before the first proposal" not in write_report(directory).read_text(encoding="utf-8")
