"""Wrong input to tune.py gets one clear line, before Ray starts, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from PIL import Image

import tune
from tests.tiny_data import write_images
from wiring import study_run


def run(*flags: str, folder: Path) -> int:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"))
    try:
        return tune.main([*flags, *places])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--space", "demmo"), "did you mean demo"),
        (("--space", "demo", "--data", "digitz"), "did you mean digits"),
        (("--space", "demo", "--data", "nowhere/at/all"), "no such folder"),
        (("--space", "finetune", "--backbones", "lite9"), "did you mean lite"),
        (("--space", "demo", "--gpus-per-trial", "64"), "needs 64 GPUs"),
        (("--space", "demo", "--weights", "nowhere.pth"), "--weights"),
        (("--space", "demo", "--searcher", "tpee"), "did you mean tpe"),
        (("--space", "demo", "--trials", "0"), "--trials must be positive"),
        (("--space", "demo", "--time-budget", "soon"), "2h, 90m or 45s"),
    ],
)
def test_wrong_flags_end_with_one_line_and_exit_code_2(
    flags: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray_before = ray.is_initialized()  # by a test of the same session

    code = run(*flags, folder=tmp_path)

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert ray.is_initialized() == ray_before
    assert not (tmp_path / "runs").exists()


def test_images_that_cannot_be_read_are_named_and_refused_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")
    (images / "red" / "broken.png").write_bytes(b"no image")

    code = run("--space", "demo", "--data", str(images), "--bad-images", "refuse", folder=tmp_path)

    error = capsys.readouterr().err
    assert code == 2
    assert "1 of 37 images cannot be read" in error
    assert "broken.png" in error


def test_a_class_with_one_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images")
    (images / "lonely").mkdir()
    Image.new("RGB", (40, 40)).save(images / "lonely" / "1.png")

    code = run("--space", "demo", "--data", str(images), folder=tmp_path)

    assert code == 2
    assert "lonely" in capsys.readouterr().err


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")

    code = run("--space", "demo", "--data", str(images), "--trials", "5", "--dry-run", folder=tmp_path)

    shown = capsys.readouterr().out
    assert code == 0
    for expected in ("learning_rate", "unfreeze_depth", "recipe", "trials: 5", "3 classes", "at once"):
        assert expected in shown
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


def test_a_study_of_another_space_or_data_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images")
    monkeypatch.setattr(study_run, "run_leases", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    flags = ("--data", str(images), "--study", "mine")
    assert run("--space", "demo", *flags, folder=tmp_path) == 130
    capsys.readouterr()

    code = run("--space", "linear_probe", "--image-size", "64", *flags, folder=tmp_path)

    error = capsys.readouterr().err
    assert code == 2
    assert "space (demo -> linear_probe)" in error
    assert "--study" in error
