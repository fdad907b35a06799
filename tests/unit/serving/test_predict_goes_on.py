"""A run of predict that was killed goes on by the same line, and every photo has exactly one row."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.files import file_lock
from serving.__main__ import main
from serving.prediction import results_file
from tests.tiny_models import write_noise, write_photo, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny").directory)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(30):
        write_noise(tmp_path / "photos" / f"{number:02}.png", seed=number)
    (tmp_path / "photos" / "20.png").write_bytes(b"bad")
    return tmp_path / "photos"


def read(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def strip_numbers(out: Path) -> list[tuple[str, str, str]]:
    return [(row["path"], row["label"], row["error"]) for row in read(out)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_wherever_a_file_is_cut_the_same_line_makes_it_whole(
    model: str, photos: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    words = ["predict", model, str(photos), "--out", str(out), "--batch-size", "4"]
    assert main(words) == 0
    whole = out.read_bytes()

    for length in [0, 5, 40, 90, len(whole) // 2, len(whole) - 1, len(whole)]:
        out.write_bytes(whole[:length])
        assert main(words) == 0
        assert len(out.read_bytes().splitlines()) == len(whole.splitlines())
        assert [line.split(b",")[0] for line in out.read_bytes().splitlines()] == [
            line.split(b",")[0] for line in whole.splitlines()
        ]


def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off(model: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", model, str(photos), "--out", str(out)]
    assert main(words) == 0
    whole = strip_numbers(out)
    out.write_bytes(out.read_bytes()[:500] + b"\0" * 300)

    assert main(words) == 0

    assert strip_numbers(out) == whole


def test_a_killed_process_goes_on(model: str, tmp_path: Path) -> None:
    source = write_noise(tmp_path / "source.png", seed=0, side=400)
    folder = tmp_path / "photos"
    for number in range(3000):
        path = folder / f"{number // 500}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "serving", "predict", model, str(folder), "--out", str(out)]
    kills, sizes = 0, [0]
    while kills < 3:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (out.stat().st_size if out.exists() else 0) <= sizes[-1] + 2000:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(out.stat().st_size)
        kills += 1

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)

    assert "the run goes on after them" in done.stdout
    names = [row["path"] for row in read(out)]
    assert names == sorted(str(path) for path in folder.rglob("*.png"))
    assert sizes == sorted(sizes)


def test_ctrl_c_keeps_what_is_written_and_says_so(model: str, tmp_path: Path) -> None:
    source = write_noise(tmp_path / "source.png", seed=0, side=600)
    for number in range(3000):
        (tmp_path / "photos").mkdir(exist_ok=True)
        os.link(source, tmp_path / "photos" / f"{number:04}.png")
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "serving", "predict", model, str(tmp_path / "photos"), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and (out.stat().st_size if out.exists() else 0) == 0:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert process.returncode == 130
    assert f"interrupted: {out} keeps its rows, and the same line goes on after them" in errors
    assert [Path(row["path"]).name for row in rows] == [f"{number:04}.png" for number in range(len(rows))]
    assert "Traceback" not in errors
    assert 0 < len(rows) < 3000


def test_a_finished_file_is_not_predicted_again(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", model, str(photos), "--out", str(out), "--summary", str(tmp_path / "s.json")]
    assert main(words) == 0
    before, stamp = out.read_bytes(), json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    capsys.readouterr()

    assert main(words) == 0

    assert out.read_bytes() == before
    assert "has the rows of all 30 photos already" in capsys.readouterr().out
    again = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert (again["photos"], again["errors"], again["answers"]) == (30, 1, stamp["answers"])


def test_more_photos_at_the_end_are_added(model: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert main(["predict", model, str(photos), "--out", str(out)]) == 0
    more = write_photo(tmp_path / "more.png")

    assert main(["predict", model, str(photos), str(more), "--out", str(out)]) == 0

    assert [row["path"] for row in read(out)][-2:] == [str(photos / "29.png"), str(more)]


def test_rows_of_two_models_flags_or_folders_are_not_mixed(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    other = str(write_tiny_model(tmp_path / "other", sharpness=10.0).directory)
    assert main(["predict", model, str(photos), "--out", str(out)]) == 0
    before = out.read_bytes()

    def refuse(*words: str) -> str:
        capsys.readouterr()
        assert main(["predict", *words, "--out", str(out)]) == 2
        assert out.read_bytes() == before
        return capsys.readouterr().err

    assert "of a run with another model: name another --out, or pass --overwrite" in refuse(
        other, str(photos)
    )
    assert "another coverage" in refuse(model, str(photos), "--coverage", "0.8")
    assert "another format" in refuse(model, str(photos), "--format", "jsonl")
    assert "another all" in refuse(model, str(photos), "--all")
    write_photo(photos / "005.png")
    assert "row 2 is of" in refuse(model, str(photos))
    assert "there are no more photos" in refuse(model, str(photos / "00.png"))
    assert main(["predict", other, str(photos), "--out", str(out), "--overwrite"]) == 0
    assert len(read(out)) == 31


def test_a_table_that_was_edited_is_refused_and_kept(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert main(["predict", model, str(photos), "--out", str(out)]) == 0
    lines = out.read_bytes().splitlines(keepends=True)
    lines[5] = b"something else\n"
    out.write_bytes(b"".join(lines))

    assert main(["predict", model, str(photos), "--out", str(out)]) == 2

    assert "row 5 is none that was written here" in capsys.readouterr().err
    assert out.read_bytes() == b"".join(lines)


def test_two_runs_do_not_write_one_file(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    with file_lock(out):
        assert main(["predict", model, str(photos), "--out", str(out)]) == 2

    assert "another run is writing it now" in capsys.readouterr().err


def test_a_full_disk_is_told_with_its_way_out(
    model: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", model, str(photos), "--out", str(out)]

    real = os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(out):  # noqa: PTH115
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(results_file, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(results_file.os, "fsync", full)
    assert main(words) == 1
    error = capsys.readouterr().err
    monkeypatch.undo()

    assert main(words) == 0
    assert "free some and run the same line again" in error
    assert error.count("\n") == 1
    assert len(read(out)) == 30


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk_is_one_line(model: str, photos: Path) -> None:
    command = [sys.executable, "-m", "serving", "predict", model, str(photos)]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no space is left on the disk of standard output: free some" in done.stderr
