"""The command line: defaults, help and mistakes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from cluster.study.config import StudyConfig
from cluster.study.flags import field_docs, parse_flags
from contract.durations import parse_duration


def test_every_flag_is_documented() -> None:
    assert set(field_docs(StudyConfig)) == {field.name for field in fields(StudyConfig)}


def test_flags_become_typed_values_and_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()

    line = "--space demo --data photos --backbones a b --time-budget 1h30m --seed 7"
    config = parse_flags(line.split())

    assert config.data == str(tmp_path / "photos")
    assert config.directory == tmp_path / "runs" / "demo-photos"
    assert config.backbones == ("a", "b")
    assert config.time_budget_seconds == 5400
    assert config.seed == 7
    assert config.storage_url == f"sqlite:///{tmp_path}/runs/demo-photos/study.db"


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ("--space demo --trails 3", "did you mean --trials"),
        ("--space demo --trials many", "invalid int value: 'many'"),
        ("--space demo --probes -1", "--probes must not be negative, got -1"),
        ("--space demo --trials 0", "--trials must be positive, got 0"),
        ("--space demo --searcher tpee", "got 'tpee'; did you mean tpe?"),
        ("--space demo --time-budget soon", "a duration like 2h, 90m or 45s, got 'soon'"),
        ("--space demo --gpus-per-trial 1.5", "must be a whole number, got 1.5"),
        ("--space demo --weights nowhere.pth", "--weights must be auto, random, or an existing file"),
        ("--space demo --study a/b", "--study must be a plain name"),
        ("--data digits", "--space"),
    ],
)
def test_a_wrong_flag_ends_with_code_2_and_one_line(
    argv: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        parse_flags(argv.split())

    message = capsys.readouterr().err
    assert ending.value.code == 2
    assert message.count("\n") == 1
    assert hint in message


def test_help_shows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        parse_flags(["--help"])

    text = capsys.readouterr().out
    assert ending.value.code == 0
    assert all("--" + field.name.replace("_", "-") in text for field in fields(StudyConfig))


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("45s", 45), ("45", 45), ("0.5h", 1800)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
