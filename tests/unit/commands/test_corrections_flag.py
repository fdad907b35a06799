"""tune.py --corrections: the plan has what a person decided, says it, and a study notices another file."""

from __future__ import annotations

from pathlib import Path

import pytest

import tune
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from tests.tiny_data import write_images
from wiring.plan import make_plan
from wiring.search import read_images, study_facts

HEADER = "path,given,suggested,why,action\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def make_config(images: Path, review: Path | None) -> StudyConfig:
    return StudyConfig(
        space="demo",
        data=str(images),
        corrections=review and str(review),
        runs_dir=images.parent / "runs",
        cache_dir=images.parent / "cache",
        study="s",
    )


def test_a_study_holds_the_corrected_images_and_says_what_was_changed(images: Path, tmp_path: Path) -> None:
    review = tmp_path / "labels.review.csv"
    review.write_text(f"{HEADER}red/00.png,red,green,,relabel\nred/01.png,red,,,drop\nred/02.png,red,,,\n")

    plan = make_plan(make_config(images, review))
    manifest, left_out = read_images(plan)
    facts = study_facts(plan, manifest, left_out)

    names = {
        path.relative_to(images).as_posix(): label
        for path, label in zip(manifest.paths, manifest.labels, strict=True)
    }
    assert len(names) == 35
    assert manifest.classes[names["red/00.png"]] == "green"
    assert "red/01.png" not in names
    assert "1 relabelled, 1 dropped" in " ".join(note["text"] for note in facts["data"]["notes"])


def test_other_corrections_do_not_continue_a_study_and_the_line_says_so(images: Path, tmp_path: Path) -> None:
    review = tmp_path / "labels.review.csv"
    plan = make_plan(make_config(images, None))
    open_study(plan.config, facts=study_facts(plan, *read_images(plan))).close()
    review.write_text(f"{HEADER}red/00.png,red,green,,relabel\n")
    again = make_plan(make_config(images, review))

    with pytest.raises(ValueError, match=r"exists with other settings: data .*1 relabelled, 0 dropped"):
        open_study(again.config, facts=study_facts(again, *read_images(again)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "python -m trainables check writes one"),
        (f"{HEADER}x.png,,,,drop\n", "line 2: 'x.png' is none"),
    ],
)
def test_corrections_that_cannot_be_followed_end_with_one_line_and_exit_code_2(
    content: str | None,
    expected: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    review = tmp_path / "labels.review.csv"
    if content:
        review.write_text(content)
    flags = ["--space", "demo", "--data", str(images), "--corrections", str(review), "--dry-run"]

    try:
        code = tune.main(
            [*flags, "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")]
        )
    except SystemExit as stop:
        code = int(stop.code or 0)

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_the_dry_run_says_what_would_be_corrected(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text(f"{HEADER}red/00.png,red,,,drop\n")
    flags = ["--space", "demo", "--data", str(images), "--corrections", "mine.csv", "--dry-run"]

    code = tune.main([*flags, "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")])

    said = capsys.readouterr().out
    assert code == 0
    assert f"corrected: 0 relabelled, 1 dropped, 0 kept as they are, by {tmp_path / 'mine.csv'}" in said
