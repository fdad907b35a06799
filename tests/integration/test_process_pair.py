"""Workers that train a trial together decide together, whatever one of them sees that the others do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.messages import Report, StudySettings
from contract.predictions import unpack_classes
from tests.integration.process_pair import (
    NUM_WORKERS,
    Results,
    Scenario,
    latency_by_rank,
    no_room,
    run_scenarios,
    second_runs_out_of_memory,
)
from tests.tiny_data import make_lease, make_settings
from trainables.training.checkpoints import begin_attempt

pytestmark = pytest.mark.slow
TRIAL: dict[str, Any] = {"regime": "finetune", "unfreeze_depth": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """All scenarios in one pair of processes: starting a pair takes longer than any of them."""
    folder = tmp_path_factory.mktemp("pair")
    settings = make_settings(folder, workers=NUM_WORKERS)
    begin_attempt(settings.trial_paths(3), 5)
    elsewhere = copy_study(settings, folder / "elsewhere", keep=lambda row: True)
    rows = (Path(settings.study_directory) / "data.csv").read_text().splitlines()
    validated = [row for row in rows if row.endswith(",val")]
    few = copy_study(settings, folder / "few", keep=lambda row: row not in validated[1:])
    paused = replace(make_lease(2, **TRIAL), checkpoint_epochs=(1,))

    def both(settings: StudySettings) -> list[Mapping[str, Any]]:
        return [settings.as_values()] * NUM_WORKERS

    return run_scenarios(
        [
            Scenario(
                name="too slow on the first",
                leased=make_lease(0, **TRIAL, max_epochs=1),
                settings=both(replace(settings, max_latency_ms=10.0)),
                circumstances=latency_by_rank,
            ),
            Scenario(
                name="fast enough on the first",
                leased=make_lease(1, **TRIAL, max_epochs=1),
                settings=both(replace(settings, max_latency_ms=1000.0)),
                circumstances=latency_by_rank,
            ),
            Scenario(name="one epoch", leased=replace(paused, until_epoch=1), settings=both(settings)),
            Scenario(
                name="continued from what the first sees",
                leased=replace(paused, attempt=2, done_epochs=1),
                settings=[settings.as_values(), elsewhere.as_values()],
            ),
            Scenario(
                name="the first was replaced",
                leased=make_lease(3, **TRIAL, attempt=4),
                settings=both(settings),
            ),
            Scenario(
                name="the first cannot save",
                leased=make_lease(4, **TRIAL, max_epochs=1),
                settings=both(settings),
                circumstances=no_room,
            ),
            Scenario(name="one validation image", leased=make_lease(5, **TRIAL), settings=both(few)),
            Scenario(
                name="no memory on the second",
                leased=make_lease(6, **TRIAL, max_epochs=1),
                settings=both(settings),
                circumstances=second_runs_out_of_memory,
            ),
            Scenario(
                name="a trained head",
                leased=make_lease(7, **TRIAL, initial_head="probe"),
                settings=both(settings),
            ),
        ],
        folder,
    )


def copy_study(settings: StudySettings, folder: Path, *, keep: Callable[[str], bool]) -> StudySettings:
    """A study of its own with some of the data."""
    folder.mkdir()
    shutil.copy(Path(settings.study_directory) / "data.csv", folder)
    header, *rows = (folder / "data.csv").read_text().splitlines()
    kept = [row.partition(",")[2] for row in rows if keep(row)]
    lines = [header, *(f"{number},{row}" for number, row in enumerate(kept))]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return replace(settings, study_directory=str(folder))


def errors(results: Results) -> list[str | None]:
    return [result["error"] for result in results]


def outcomes(results: Results) -> list[str | None]:
    return [result["reports"][-1]["outcome"] for result in results]


def test_all_take_the_latency_that_the_first_worker_measured(results: dict[str, Results]) -> None:
    assert outcomes(results["too slow on the first"]) == ["infeasible"] * NUM_WORKERS
    assert outcomes(results["fast enough on the first"]) == ["complete"] * NUM_WORKERS


def test_all_go_on_from_the_checkpoint_that_only_the_first_worker_sees(results: dict[str, Results]) -> None:
    continued = results["continued from what the first sees"]

    assert errors(continued) == [None] * NUM_WORKERS
    assert [[report["epoch"] for report in result["reports"]] for result in continued] == [[2]] * NUM_WORKERS
    assert len({result["reports"][0]["metrics"]["val_loss"] for result in continued}) == 1


def test_every_report_holds_the_classes_that_all_workers_predicted(results: dict[str, Results]) -> None:
    whole = results["fast enough on the first"]
    reports = [Report.from_values(result["reports"][-1]) for result in whole]

    packed = {report.predicted for report in reports}

    assert len(packed) == 1
    assert [unpack_classes(report.predicted or b"").tolist() for report in reports] == [
        result["predicted"] for result in whole
    ]


def test_where_the_first_worker_was_replaced_all_end(results: dict[str, Results]) -> None:
    replaced = errors(results["the first was replaced"])

    assert all(error is not None and error.startswith("Superseded") for error in replaced)


def test_where_the_first_worker_cannot_save_all_end(results: dict[str, Results]) -> None:
    assert errors(results["the first cannot save"]) == ["PermissionError: not yours"] * NUM_WORKERS


def test_fewer_validation_images_than_workers_are_validated(results: dict[str, Results]) -> None:
    few = results["one validation image"]

    assert errors(few) == [None] * NUM_WORKERS
    assert outcomes(few) == ["complete"] * NUM_WORKERS
    assert len({result["reports"][-1]["metrics"]["val_loss"] for result in few}) == 1


def test_a_worker_without_memory_for_a_whole_batch_takes_parts_and_all_go_on(
    results: dict[str, Results],
) -> None:
    assert errors(results["no memory on the second"]) == [None] * NUM_WORKERS


def test_all_begin_with_the_same_trained_head(results: dict[str, Results]) -> None:
    trained = results["a trained head"]

    assert errors(trained) == [None] * NUM_WORKERS
    assert outcomes(trained) == ["complete"] * NUM_WORKERS
    assert len({result["reports"][0]["metrics"]["val_loss"] for result in trained}) == 1
