"""Where labels are known, predict says how often the model is right; and the page shows what it doubts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from contract.intervals import wilson
from serving.__main__ import main
from serving.prediction.photos import Photo
from serving.prediction.results_page import MostDoubtful
from serving.prediction.rows import Row
from serving.prediction.scores import Scores
from tests.tiny_models import write_photo, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny").directory)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three photos of each class, one of them in a wrong folder, and two of an unknown one."""
    for name in ("red", "green", "blue"):
        for number in range(3):
            write_photo(tmp_path / "data" / name / f"{number}.png", name)
    write_photo(tmp_path / "data" / "red" / "2.png", "blue")
    write_photo(tmp_path / "data" / "pink" / "0.png", "red")
    write_photo(tmp_path / "data" / "pink" / "1.png", "red")
    return tmp_path / "data"


def run(model: str, *words: object, code: int = 0) -> None:
    assert main(["predict", model, *map(str, words)]) == code


def test_names_of_folders_are_labels_where_most_are_classes(
    model: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(model, folders, "--out", tmp_path / "o.csv", "--summary", tmp_path / "s.json")

    said = capsys.readouterr().out
    low, high = wilson(8, 9)
    assert "labels are the names of the photos' folders (--labels none leaves them out)" in said
    assert f"accuracy 88.89% (95 % interval {low:.2%} to {high:.2%}): 8 right of 9 photos" in said
    assert "2 photos with a label that the model does not know, not counted: pink (2)" in said
    assert re.search(r"^red +2 +· +1 +66.7%", said, re.MULTILINE)
    (line,) = (tmp_path / "s.json").read_text(encoding="utf-8").splitlines()
    summary = json.loads(line)
    assert summary["accuracy"] == {"value": 8 / 9, "low": low, "high": high, "right": 8, "photos": 9}
    assert ["red", "blue", 1] in summary["confusion"]
    assert summary["labels_not_known"] == {"pink": 2}
    assert summary["sets"]["share_with_label"] == pytest.approx(8 / 9)


def test_labels_none_and_folders_that_are_no_classes_give_no_accuracy(
    model: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(model, folders, "--out", tmp_path / "a.csv", "--labels", "none")
    run(model, folders / "pink", folders / "red" / "0.png", "--out", tmp_path / "b.csv")
    assert "accuracy" not in capsys.readouterr().out

    run(
        model, folders / "pink", folders / "red" / "0.png", "--out", tmp_path / "c.csv", "--labels", "folders"
    )
    assert "1 right of 1 photo with a label" in capsys.readouterr().out


def test_a_table_of_labels_counts_the_photos_that_it_names(
    model: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folders / "labels.csv"
    table.write_text("file,label\nred/0.png,red\nred/1.png,green\nblue/0.png,violet\n", encoding="utf-8")

    run(model, folders, "--labels", table, "--out", tmp_path / "o.csv", "--summary", tmp_path / "s.json")

    said = capsys.readouterr().out
    assert "accuracy 50.00%" in said and "1 right of 2 photos" in said
    assert "violet (1)" in said and "8 photos without a label" in said
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["labels_from"] == "table"


def test_the_photos_own_table_gives_labels_by_row(
    model: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folders / "list.csv"
    table.write_text("path,label\nred/0.png,red\nred/0.png,green\nred/0.png,\n", encoding="utf-8")

    run(model, "--csv", table, "--labels", table, "--out", tmp_path / "o.csv")

    said = capsys.readouterr().out
    assert "1 right of 2 photos" in said and "1 photo without a label" in said


def test_a_run_that_goes_on_counts_all_rows(
    model: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [folders, "--out", tmp_path / "o.csv", "--html", tmp_path / "p.html"]
    run(model, *words)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    lines = (tmp_path / "o.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "o.csv").write_bytes(b"".join(lines[:5]))
    capsys.readouterr()

    run(model, *words)

    assert "8 right of 9 photos" in capsys.readouterr().out
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == page


def test_of_many_classes_only_the_largest_confusions_are_shown() -> None:
    classes = [f"c{number:02}" for number in range(30)]
    scores = Scores(classes, has_sets=False)
    for number in range(30):
        for times in range(number):
            label = classes[(number + times % 2) % 30]  # every second one is taken for the next class
            scores.add(Row(path="x", label=label, probability=0.5), classes[number])

    titles, rows = scores.confusion_rows()

    assert titles == ["true", "answer", "photos"]
    assert rows[0] == ["c28", "c29", "14"] and len(rows) == 15


def test_the_most_doubtful_are_unknown_ones_then_those_of_low_probability() -> None:
    kept = MostDoubtful(3)
    found = [("a", 0.9, False), ("b", 0.4, False), ("c", 0.99, True), ("d", 0.5, None), ("e", 0.4, False)]

    for name, probability, unknown in found:
        row = Row(path=name, label="x", probability=probability, unknown=unknown)
        kept.add(row, Photo(name, name), "")

    assert [row.path for row, _, _ in kept.in_order()] == ["c", "b", "e"]


def test_the_page_shows_the_most_doubtful_with_their_labels(
    model: str, folders: Path, tmp_path: Path
) -> None:
    write_photo(folders / "red" / "<b>grey&.png", "grey")
    (folders / "red" / "bad.png").touch()

    run(model, folders, "--out", tmp_path / "o.csv", "--html", tmp_path / "p.html", "--html-photos", "2")

    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count('<div class="card">') == 2 and page.count("data:image/jpeg") == 2
    assert page.index("&lt;b&gt;grey&amp;.png") < page.rindex('<div class="card">')
    assert '<span class="unknown">unknown</span>' in page
    assert "the 2 most doubtful of 12 photos" in page
    assert "empty file" in page and "accuracy 90.00%" in page
    assert "<b>grey" not in page
