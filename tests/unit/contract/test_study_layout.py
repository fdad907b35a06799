"""Every file of a study and of a model has one name, as docs and old studies have it."""

from pathlib import Path

from contract.study_layout import (
    CachePaths,
    RunOutcome,
    StudyPaths,
    StudyStatus,
    is_study,
    study_directories,
)


def test_a_study_lies_where_studies_have_always_lain() -> None:
    study = StudyPaths(Path("/runs/flowers"))
    trial = study.trial(7)

    names = {
        study.facts: "study.json",
        study.database: "study.db",
        study.manifest: "data.csv",
        study.report: "report.html",
        study.lock: "lock",
        study.model.program: "model/classifier.pt2",
        study.model.card: "model/export.json",
        trial.checkpoint: "trials/7/checkpoint.pt",
        trial.previous_checkpoint: "trials/7/checkpoint.previous.pt",
        trial.weights: "trials/7/model.pt",
        trial.predictions: "trials/7/predictions.npz",
        trial.attempt: "trials/7/attempt",
        study.ray_tune: ".ray",
        study.ray_train: "train",
    }
    assert {path.relative_to(study.directory).as_posix() for path in names} == set(names.values())


def test_mlflow_is_shared_by_the_studies_of_a_runs_directory() -> None:
    one, other = StudyPaths(Path("/runs/one")), StudyPaths(Path("/runs/other"))

    assert one.tracking_database == other.tracking_database == Path("/runs/mlflow.db")
    assert one.tracking_artifacts == Path("/runs/mlartifacts/one")


def test_caches_lie_side_by_side() -> None:
    cache = CachePaths(Path("/cache"))

    folders = {cache.images, cache.activations, cache.datasets, cache.bytecode}
    assert {folder.parent for folder in folders} == {Path("/cache")}
    assert len(folders) == 4


def test_a_directory_with_a_study_file_is_a_study(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        StudyPaths(tmp_path / name).facts.write_text("{}", encoding="utf-8")
    (tmp_path / "c").mkdir()

    assert study_directories(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert is_study(tmp_path / "a")
    assert not is_study(tmp_path / "c")


def test_the_words_of_study_json_are_those_of_existing_studies() -> None:
    assert set(StudyStatus) == {"new", "running", "finished", "stopped", "failed"}
    assert set(RunOutcome) == {"finished", "no gain", "interrupted", "time budget", "failed", "lost"}


def test_a_run_leaves_its_study_finished_failed_or_stopped() -> None:
    left = {outcome: outcome.study_status for outcome in RunOutcome}

    assert left[RunOutcome.FINISHED] is left[RunOutcome.NO_GAIN] is StudyStatus.FINISHED
    assert left[RunOutcome.FAILED] is StudyStatus.FAILED
    stopped = (RunOutcome.INTERRUPTED, RunOutcome.TIME_BUDGET, RunOutcome.LOST)
    assert {left[outcome] for outcome in stopped} == {StudyStatus.STOPPED}
