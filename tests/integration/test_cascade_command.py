"""Two studies of one folder become one model by `finalize.py A --then B`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import finalize
from analysis.answer.cascade import make_cascade
from analysis.reading import load_study
from analysis.readings import load_readings
from contract.study_layout import StudyPaths
from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def search(folder: Path, name: str, lines: str) -> Path:
    file = folder / f"{name}.csv"
    file.write_text(f"class,name\n{lines}", encoding="utf-8")
    flags = ["--space", "demo", "--data", str(folder / "images"), "--classes", str(file), "--study", name]
    flags += ["--trials", "2", "--max-epochs", "1", "--image-size", "32", "--scheduler", "none"]
    flags += ["--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    run("tune.py", *flags)
    return folder / "runs" / name


@pytest.mark.timeout(900)
def test_two_studies_become_one_model_whose_test_reading_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", images_per_class=20)
    first = search(tmp_path, "one", "red,red\n*,rest\n")
    second = search(tmp_path, "others", "red,\n")
    command = ("finalize.py", "one", "--then", "others", "--test", "--runs-dir", str(tmp_path / "runs"))

    shown = run(*command).stdout

    model = StudyPaths(first).cascade("others")
    assert "cascade: red or not by one, the other classes by others" in shown
    assert "% as chosen, " in shown
    assert "not read yet" not in shown
    check_probabilities(first, second)
    check_readings(first, second)
    card, written = json.loads(model.card.read_text()), model.program.stat().st_mtime_ns
    assert (card["rule"], card["classes"], card["one"]) == ("cascade", ["blue", "green", "red"], "red")
    for score in card["scores"].values():
        assert score["low"] <= score["corrected"] <= score["high"]

    assert finalize.main(list(command[1:])) == 0

    assert "its reading stands" in capsys.readouterr().out
    assert model.program.stat().st_mtime_ns == written
    check_readings(first, second)


def check_probabilities(first: Path, second: Path) -> None:
    """The program's probabilities are those of both, merged."""
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    models = (StudyPaths(first).cascade("others"), StudyPaths(first).model, StudyPaths(second).model)
    with torch.no_grad():
        merged, own, others = (torch.export.load(model.program).module()(images) for model in models)

    expected = make_cascade(first, second).merge(own.log().numpy(), others.log().numpy())

    torch.testing.assert_close(merged.double(), torch.from_numpy(expected).exp(), atol=1e-5, rtol=1e-4)


def check_readings(first: Path, second: Path) -> None:
    digest = StudyPaths(first).cascade("others").identity()
    for study in (first, second):
        (reading,) = load_readings(load_study(study))
        assert (reading.rule, reading.digest, reading.reading) == ("cascade", digest, 1)
        assert {one["class"] for one in reading.record["classes"]} == {"blue", "green", "red"}
        assert reading.images == load_num_test(first)


def load_num_test(study: Path) -> int:
    number: int = json.loads(StudyPaths(study).facts.read_text())["data"]["num_test"]
    return number
