"""tune.py --classes: two tasks of one folder have one cut, and a study notices another file."""

from __future__ import annotations

from pathlib import Path

import pytest

import tune
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from contract.study_layout import StudyPaths
from tests.tiny_data import write_images
from trainables.data.manifest import Manifest, read_manifest
from wiring.plan import make_plan
from wiring.search import read_images, study_facts


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", side=24)


def make_config(images: Path, lines: str, *, study: str = "s") -> StudyConfig:
    file = images.parent / f"{study}.csv"
    file.write_text(f"class,name\n{lines}", encoding="utf-8")
    return StudyConfig(
        space="demo",
        data=str(images),
        classes=str(file) if lines else None,
        runs_dir=images.parent / "runs",
        cache_dir=images.parent / "cache",
        study=study,
    )


def begin(config: StudyConfig) -> Manifest:
    plan = make_plan(config)
    manifest, found = read_images(plan)
    study = open_study(plan.config, facts=study_facts(plan, manifest, found))
    manifest.write_csv(study.directory / "data.csv")
    study.close()
    return manifest


def test_one_class_against_the_rest_and_the_rest_are_cut_alike(images: Path) -> None:
    one = begin(make_config(images, "red,red\n*,rest\n", study="one"))
    others = begin(make_config(images, "red,\n", study="others"))

    kept = [row for row, original in enumerate(one.originals) if original != "red"]
    assert one.classes == ("red", "rest")
    assert others.classes == ("blue", "green")
    assert [one.digests[row] for row in kept] == list(others.digests)
    assert one.splits[kept].tolist() == others.splits.tolist()
    assert [one.originals[row] for row in kept] == list(others.originals)
    written = read_manifest(StudyPaths(images.parent / "runs" / "others").manifest, others.classes)
    assert written.originals == others.originals


def test_the_same_file_continues_a_study_and_another_does_not(images: Path) -> None:
    begin(make_config(images, "red,\n"))

    begin(make_config(images, "red,\n"))
    for lines, said in (("green,\n", r"added"), ("red,\nblue,Blue\n", "'Blue' is 'blue'"), ("", "12 added")):
        with pytest.raises(ValueError, match=rf"exists with other settings: data .*{said}"):
            begin(make_config(images, lines))


def test_corrections_come_first_and_know_the_original_classes(images: Path) -> None:
    review = images.parent / "labels.review.csv"
    review.write_text("path,given,suggested,why,action\nred/00.png,red,green,,relabel\n")
    config = make_config(images, "green,leaf\n")

    plan = make_plan(StudyConfig(**{**vars(config), "corrections": str(review)}))
    manifest, _ = read_images(plan)

    row = manifest.paths.index(images / "red" / "00.png")
    assert manifest.classes[manifest.labels[row]] == "leaf"
    assert manifest.originals[row] == "green"


def run_dry(images: Path, lines: str, *more: str) -> int:
    file = images.parent / "classes.csv"
    file.write_text(f"class,name\n{lines}", encoding="utf-8")
    flags = ["--space", "demo", "--data", str(images), "--classes", str(file), "--dry-run", *more]
    folders = ["--runs-dir", str(images.parent / "runs"), "--cache-dir", str(images.parent / "cache")]
    try:
        return tune.main([*flags, *folders])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_the_dry_run_says_what_becomes_of_the_classes(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_dry(images, "red,\nblue,sky\n")

    said = capsys.readouterr().out
    assert code == 0
    assert "2 classes, 17 train, 5 val, 2 test" in said
    assert "renamed: 'sky' is 'blue' (12 images), by " in said
    assert "renamed: 'red' (12 images) is not used, though cut into splits with the others" in said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("rde,x\n", "line 2: there is no class 'rde'; did you mean red or green?"),
        ("*,x\n", "leaves only 'x'"),
    ],
)
def test_a_file_that_cannot_be_followed_ends_with_one_line_and_exit_code_2(
    images: Path, lines: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_dry(images, lines)

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
