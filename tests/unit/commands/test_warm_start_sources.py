"""Where a study's first configurations come from: all earlier studies, a shared file, or studies by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main as analyse
from cluster.study.config import StudyConfig
from tests.study_factory import FakeTrial, make_study
from tests.tiny_data import write_images
from tune import start
from wiring.past_studies import find_starts
from wiring.plan import Plan, make_plan

RATES = (5e-4, 2e-3, 8e-3)


def make_past(folder: Path, name: str, best: float, **facts: Any) -> Path:
    """A study of `--space demo` whose head with this rate is best."""
    trials = [
        FakeTrial(
            curve=[0.9 if rate == best else 0.6],
            config={"learning_rate": rate, "unfreeze_depth": 2, "dropout": 0.1},
        )
        for rate in RATES
    ]
    data = {"source": name, "contents": name, "classes": ["a", "b"], "num_train": 50}
    facts = {"space": "demo", "data": data, "directions": ["maximize"]} | facts
    return make_study(folder / "runs" / name, trials, **facts)


def plan_of(folder: Path, *warm_start: str, **flags: Any) -> Plan:
    images = folder / "images"
    if not images.exists():
        write_images(images)
    places = {"runs_dir": folder / "runs", "cache_dir": folder / "cache", "data": str(images)}
    usual = {"space": "demo", "image_size": 32, "study": "new", "trials": 16}
    return make_plan(StudyConfig(**usual | places | {"warm_start": warm_start} | flags))


def rates(starts: list[dict[str, Any]]) -> list[float]:
    return [one["params"]["learning_rate"] for one in starts]


def test_auto_learns_from_every_other_study_of_the_runs_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, best in (("one", 2e-3), ("two", 2e-3), ("new", 8e-3)):
        make_past(tmp_path, name, best)
    (tmp_path / "runs" / "new" / "study.json").write_text(json.dumps({"study": "new"}))

    found = find_starts(plan_of(tmp_path, "auto"), {"contents": "other"})

    shown = capsys.readouterr()
    assert rates(found)[0] == 2e-3
    assert "6 trials on 2 sets of images, of one, two" in " ".join(shown.out.split())
    assert "new" not in shown.err
    assert set(found[0]["params"]) == {
        "backbone",
        "unfreeze_depth",
        "batch_size",
        "learning_rate",
        "dropout",
        "head_width",
        "policy",
    }


def test_the_best_on_the_very_same_images_comes_first(tmp_path: Path) -> None:
    for name, best in (("one", 2e-3), ("two", 2e-3), ("same", 8e-3)):
        make_past(tmp_path, name, best)

    assert rates(find_starts(plan_of(tmp_path, "auto"), {"contents": "same"}))[0] == 8e-3


def test_a_damaged_study_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_past(tmp_path, "good", 2e-3)
    (make_past(tmp_path, "broken", 8e-3) / "study.json").write_text("{")
    (make_past(tmp_path, "no_table", 8e-3) / "study.db").write_bytes(b"no database" * 100)
    (make_past(tmp_path, "lost", 8e-3) / "study.db").unlink()

    found = find_starts(plan_of(tmp_path, "auto"), {"contents": "other"})

    errors = capsys.readouterr().err.strip().splitlines()
    assert rates(found)[0] == 2e-3
    assert len(errors) == 3
    assert all(any(name in line for line in errors) for name in ("broken", "no_table", "lost"))


def test_a_study_that_minimized_another_metric_teaches_by_this_ones(tmp_path: Path) -> None:
    make_past(tmp_path, "by_loss", 2e-3, metric="val_loss", direction="minimize", directions=["minimize"])

    assert rates(find_starts(plan_of(tmp_path, "auto"), {"contents": "other"}))[0] == 2e-3


def test_what_the_space_cannot_hold_teaches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_past(tmp_path, "one", 2e-3)

    found = find_starts(plan_of(tmp_path, "auto", backbones=("lite1",)), {"contents": "other"})

    assert found == []
    assert "no other study" in capsys.readouterr().out


def test_nothing_is_read_or_said_without_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_past(tmp_path, "one", 2e-3)

    assert find_starts(plan_of(tmp_path), {"contents": "other"}) == []
    assert "warm start" not in capsys.readouterr().out


def test_a_continued_study_keeps_what_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_past(tmp_path, "one", 2e-3)
    kept = [{"name": "trial 3 of gone", "params": {"learning_rate": 1e-3}}]
    make_past(tmp_path, "new", 8e-3, warm_start=kept)

    assert find_starts(plan_of(tmp_path, "auto"), {"contents": "other"}) == kept
    assert "warm start" not in capsys.readouterr().out


def test_a_shared_file_needs_none_of_its_studies(tmp_path: Path) -> None:
    made = [make_past(tmp_path, name, best) for name, best in (("one", 2e-3), ("two", 8e-3))]
    shared = tmp_path / "shared.json"
    assert analyse(["portfolio", *map(str, made), "--out", str(shared)]) == 0
    shutil.rmtree(tmp_path / "runs")

    found = find_starts(plan_of(tmp_path, str(shared)), {"contents": "other"})

    assert {2e-3, 8e-3} >= set(rates(found)) != set()


def test_files_studies_and_auto_can_stand_together(tmp_path: Path) -> None:
    made = [make_past(tmp_path, name, best) for name, best in (("one", 2e-3), ("two", 8e-3))]
    shared = tmp_path / "shared.json"
    analyse(["portfolio", str(made[0]), "--out", str(shared)])

    found = find_starts(plan_of(tmp_path, "two", str(shared), "auto", trials=64), {"contents": "other"})

    params = [json.dumps(one["params"], sort_keys=True) for one in found]
    assert len(set(params)) == len(params)
    assert {2e-3, 8e-3} <= set(rates(found))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, "No such file"),
        ("{", "cannot be read as a portfolio"),
        ({"entries": [{"name": "a", "values": {"backbone": "lite0", "unknown_rate": 1}}]}, "unknown_rate"),
        ({"entries": [{"name": "a", "values": {"backbone": "lite2"}}], "spaces": ["finetune"]}, "finetune"),
    ],
)
def test_an_unfit_file_ends_with_one_line_and_exit_code_2(
    change: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared.json"
    if change is not None:
        analyse(["portfolio", str(make_past(tmp_path, "one", 2e-3)), "--out", str(shared)])
        text = change if isinstance(change, str) else json.dumps(json.loads(shared.read_text()) | change)
        shared.write_text(text)
    write_images(tmp_path / "images")
    capsys.readouterr()
    config = StudyConfig(
        space="demo",
        data=str(tmp_path / "images"),
        runs_dir=tmp_path / "runs",
        cache_dir=tmp_path / "cache",
        warm_start=(str(shared),),
        dry_run=True,
    )

    code = start(config)

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
