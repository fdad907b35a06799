"""python -m serving predict: every source gives its photos in order, each with a row."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.__main__ import main
from tests.tiny_models import CLASSES, write_photo, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny").directory)


def predict(model: str, *words: object, out: Path) -> list[dict[str, str]]:
    assert main(["predict", model, *map(str, words), "--out", str(out)]) in (0, 1)
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refuse(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_files_and_folders_keep_their_order_and_what_is_no_image_is_counted(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b/2.png", "b/1.jpg", "b/a/3.PNG", "b/.hidden.png", "b/@eaDir/1.jpg", "a.png"):
        write_photo(tmp_path / name, "blue" if "b/" in name else "red")
    (tmp_path / "b" / "notes.txt").write_text("no image", encoding="utf-8")

    rows = predict(model, tmp_path / "b", tmp_path / "a.png", out=tmp_path / "out.csv")

    names = [Path(row["path"]).relative_to(tmp_path).as_posix() for row in rows]
    assert names == ["b/1.jpg", "b/2.png", "b/a/3.PNG", "a.png"]
    assert [row["label"] for row in rows] == ["blue", "blue", "blue", "red"]
    said = capsys.readouterr().out
    assert "left out 1 file without an image's suffix: 1 .txt" in said
    assert "left out 2 hidden names" in said


def test_bad_and_missing_files_are_rows_with_their_error(model: str, tmp_path: Path) -> None:
    good = write_photo(tmp_path / "good.png", "green")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")

    rows = predict(model, tmp_path, tmp_path / "gone.png", good, "/dev/zero", out=tmp_path / "out.csv")

    assert [(Path(row["path"]).name, row["label"], row["error"]) for row in rows] == [
        ("bad.png", "", "no image format that can be read"),
        ("empty.jpg", "", "empty file"),
        ("good.png", "green", ""),
        ("pipe.png", "", "not a regular file"),
        ("gone.png", "", "No such file or directory"),
        ("good.png", "green", ""),
        ("zero", "", "not a regular file"),
    ]


ODD = (
    *(
        "a[1].jpg",
        "b*.png",
        "100%.png",
        "what?.png",
        "c#1.png",
        "two words.png",
        "quo\"te's.png",
        "umläut.png",
    ),
    *("new\nline.png", "co,mma.png", "car\rriage.png", "back\\slash.png", "-dash.png", "🌹.png", "=1+2.png"),
)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_odd_names_are_files_not_patterns_and_survive_the_results(
    model: str, tmp_path: Path, suffix: str
) -> None:
    paths = [write_photo(tmp_path / name, "blue") for name in ODD]
    raw = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.png")
    Path(raw).write_bytes(paths[0].with_name("c#1.png").read_bytes())
    out = tmp_path / f"out{suffix}"
    words = ["predict", model, *map(str, paths), raw, "--out", str(out)]

    assert main(words) == 0
    before = out.read_bytes()
    out.write_bytes(before[:-7])  # the rows must be recognised when they are read again
    assert main(words) == 0

    assert out.read_bytes() == before
    text = before.decode("utf-8")  # raises if it is no UTF-8
    if suffix == ".csv":
        found = [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))]
        assert found == [*map(str, paths), raw.replace("\udce9", "\\udce9")]
    else:
        assert [json.loads(line)["path"] for line in text.splitlines()] == [*map(str, paths), raw]


def test_results_can_be_read_as_a_table_of_photos_again(model: str, tmp_path: Path) -> None:
    raw = os.fsdecode(b"caf\xe9.png")
    folder = write_photo(tmp_path / "photos" / "x.png", "green").parent
    (folder / raw).write_bytes((folder / "x.png").read_bytes())
    first = predict(model, folder, out=tmp_path / "first.csv")

    again = predict(model, "--csv", tmp_path / "first.csv", out=tmp_path / "second.csv")

    assert first == again
    assert [row["label"] for row in again] == ["green", "green"]


def test_patterns_match_sorted_and_below_folders(model: str, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.jpg", "b[x]/1.png", "b[x]/c/1.png", "b[x]/.h/1.png", "a/n.txt"):
        write_photo(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).touch()

    def names(pattern: str, number: int) -> list[str]:
        rows = predict(model, f"{tmp_path}/{pattern}", out=tmp_path / f"{number}.csv")
        return [Path(row["path"]).relative_to(tmp_path).as_posix() for row in rows]

    assert names("*/*.png", 1) == ["a/1.png", "b[x]/1.png"]
    assert names("b[x]/*.png", 2) == ["b[x]/1.png"]
    assert names("**/1.png", 3) == ["a/1.png", "b[x]/1.png", "b[x]/c/1.png"]
    assert names("[ab]*", 4) == ["a/1.png", "a/2.jpg", "b[x]/1.png", "b[x]/c/1.png"]
    assert names("a/?.*", 5) == ["a/1.png", "a/2.jpg"]


def test_links_in_a_ring_end(model: str, tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "lost.png").symlink_to(tmp_path / "nowhere.png")

    rows = predict(model, tmp_path / "photos", out=tmp_path / "out.csv")

    assert [bool(row["error"]) for row in rows] == [False, True]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_keeps_order_and_repeated_rows(model: str, tmp_path: Path, encoding: str) -> None:
    write_photo(tmp_path / "photos" / "ä 1.png", "blue")
    write_photo(tmp_path / "photos" / "2.png", "red")
    table = tmp_path / "list.csv"
    lines = [
        "id;Image Path;x",
        "1;photos/2.png;",
        "2;photos/ä 1.png;",
        "3;;",
        "4;photos\\2.png;",
        "5;photos/3.png",
    ]
    table.write_text("\n".join(lines), encoding=encoding)

    rows = predict(model, "--csv", table, "--column", "image_path", out=tmp_path / "out.csv")

    assert [row["label"] for row in rows] == ["red", "blue", "red", ""]
    assert rows[3]["error"] == "No such file or directory"


def test_a_table_without_a_header_is_read_from_its_first_line(model: str, tmp_path: Path) -> None:
    write_photo(tmp_path / "1.png", "blue")
    (tmp_path / "list.csv").write_text("x,1.png\ny,1.png\n", encoding="utf-8")

    rows = predict(model, "--csv", tmp_path / "list.csv", out=tmp_path / "out.csv")

    assert [row["label"] for row in rows] == ["blue", "blue"]


def test_a_list_on_standard_input_is_read_line_by_line_or_by_nul(model: str, tmp_path: Path) -> None:
    first, second = (
        write_photo(tmp_path / "new\nline.png", "red"),
        write_photo(tmp_path / "b [1].png", "blue"),
    )
    command = [sys.executable, "-m", "serving", "predict", model, "-", "--format", "jsonl"]

    def ask(text: str) -> list[dict[str, str]]:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=120)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert [row["label"] for row in ask(f"{first}\0{second}\0")] == ["red", "blue"]
    assert [row["path"] for row in ask(f"{second}\r\n\n{second}")] == [str(second)] * 2


def test_columns_say_what_the_model_answers(model: str, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.png", (120, 128, 100))

    (row,) = predict(model, photo, "--all", "--coverage", "0.95", out=tmp_path / "out.csv")
    assert main(["predict", model, str(photo), "--all", "--out", str(tmp_path / "out.jsonl")]) == 0
    values = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))

    assert (row["label"], row["second"], row["set"], row["unknown"]) == (
        *("green", "red", "green|red|blue", "false"),
    )
    total = sum(float(row[f"probability_{name}"]) for name in CLASSES)
    assert total == pytest.approx(1, abs=1e-5)
    assert float(row["probability"]) == pytest.approx(values["probabilities"]["green"], abs=1e-6)
    assert list(values["probabilities"]) == list(CLASSES)
    assert values["unknown"] is False and values["error"] is None


def test_every_image_mode_and_orientation_is_read_as_the_card_reads_it(model: str, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from serving.model import load_model

    random = np.random.default_rng(0)
    base = Image.fromarray(random.integers(0, 255, (40, 24, 3), dtype=np.uint8))
    paths = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.tif"
        image = (
            Image.fromarray(np.arange(960, dtype=np.uint16).reshape(40, 24) * 60) if mode == "I;16" else None
        )
        (image or base.convert(mode)).save(path)
        paths.append(path)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"turned{orientation}.jpg"
        base.save(path, exif=exif)
        paths.append(path)
    loaded = load_model(ModelPaths(Path(model)))
    card = ModelCard.load(ModelPaths(Path(model)))

    rows = predict(model, *paths, "--all", out=tmp_path / "out.csv")

    wanted = [loaded.predict(card.read_image(path)[None])[0] for path in paths]
    assert [row["error"] for row in rows] == [""] * len(paths)
    for row, answer in zip(rows, wanted, strict=True):
        assert row["label"] == answer.label
        for name, value in answer.probabilities.items():
            assert float(row[f"probability_{name}"]) == pytest.approx(value, abs=1e-6)


def test_wrong_flags_are_told_in_one_line_before_torch_is_loaded(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = write_photo(tmp_path / "a.png")
    pipe, text = tmp_path / "pipe.csv", tmp_path / "list.csv"
    os.mkfifo(pipe)
    text.write_text("x,y\n1,2\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()

    assert "which photos?" in refuse(capsys, model)
    assert "neither a model's directory nor a study" in refuse(capsys, tmp_path / "none", photo)
    assert "no such file or folder" in refuse(capsys, model, tmp_path / "gone.png")
    assert "matches no image" in refuse(capsys, model, f"{tmp_path}/*.jpeg")
    assert "there is no image to predict" in refuse(capsys, model, empty)
    assert "in steps of 0.01" in refuse(capsys, model, photo, "--coverage", "0.123")
    assert "has no onnx, but pt2" in refuse(capsys, model, photo, "--model-format", "onnx")
    assert "end it in .csv or .jsonl" in refuse(capsys, model, photo, "--out", tmp_path / "out.xlsx")
    assert "no regular file" in refuse(capsys, model, photo, "--out", pipe)
    assert "is a folder" in refuse(capsys, model, photo, "--out", tmp_path)
    assert "does not exist" in refuse(capsys, model, photo, "--out", tmp_path / "no" / "out.csv")
    assert "no run of predict wrote it" in refuse(capsys, model, photo, "--out", text)
    assert "lacks a column path, found x, y" in refuse(capsys, model, "--csv", text)
    assert "has no column z" in refuse(capsys, model, "--csv", text, "--column", "z")
    assert "is no regular file" in refuse(capsys, model, "--csv", pipe)
    assert "no regular file" in refuse(capsys, model, photo, "--html", pipe)
    assert "different files" in refuse(
        capsys, model, photo, "--html", tmp_path / "o.csv", "--out", tmp_path / "o.csv"
    )
    assert "--workers is for a cluster" in refuse(capsys, model, photo, "--workers", "2")
    assert not (tmp_path / "o.csv").exists()


def test_flags_are_checked_without_torch(model: str, tmp_path: Path) -> None:
    code = (
        "import sys; from serving.__main__ import main; "
        f"assert main(['predict', {model!r}, {str(tmp_path / 'none')!r}]) == 2; "
        "assert not {'torch', 'ray', 'fsspec', 'pandas'} & sys.modules.keys(), 'too much is imported'"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_a_pipe_gets_rows_and_nothing_else(model: str, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.png", "red")
    done = subprocess.run(
        [sys.executable, "-m", "serving", "predict", model, str(photo)],
        capture_output=True,
        check=True,
        timeout=120,
        text=True,
    )

    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert row["label"] == "red"
    assert "1 photo in" in done.stderr


def test_a_table_for_people_marks_what_is_unknown(
    model: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write_photo(tmp_path / "a" / "red.png", "red")
    write_photo(tmp_path / "a" / "grey.png", "grey")
    (tmp_path / "a" / "bad.png").touch()

    assert main(["predict", model, str(tmp_path / "a"), "--format", "table"]) == 0

    bad, grey, red = capfdbinary.readouterr().out.decode().splitlines()
    assert "error" in bad and "empty file" in bad
    assert grey.startswith("? red") and "(or green, blue)" in grey
    assert red.startswith("  red   100.0 %")
