"""What the report says about a study's data: groups, leaks, the majority, images left out, no photos."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from analysis.__main__ import main
from analysis.leaderboard import print_leaderboard
from analysis.majority import find_majority, suggest_metric
from analysis.reading import load_study
from analysis.report import write_report
from analysis.report.answer import answer_section, say_answer, suggest_next_steps, warn_of_data
from analysis.report.class_sections import MATRIX_CLASSES, choose_shown, classes_section
from analysis.report.findings import Findings, find_out
from analysis.report.group_section import tell_groups, tell_leaks
from analysis.report.image_sections import image_sections
from tests.study_factory import FakeTrial, make_study

SPLITS = ["train"] * 7 + ["val"] * 30 + ["test"]


def study_with(
    root: Path,
    *,
    groups: Sequence[int] | None = None,
    right: Sequence[bool] | None = None,
    labels: Sequence[int] | None = None,
    **facts: Any,
) -> Path:
    """A study of three classes with 7, 30 and 1 images, whose data.csv has these groups and labels."""
    directory = make_study(root / "s", [FakeTrial(curve=[0.7]), FakeTrial(curve=[0.6])], **facts)
    labels = [number % 3 for number in range(38)] if labels is None else labels
    numbers = range(38) if groups is None else groups
    rows = [f"{i},/photos/{i}.jpg,{labels[i]},{SPLITS[i]},{numbers[i]},d{i},c" for i in range(38)]
    header = "id,path,label,split,group,digest,class"
    (directory / "data.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if right is not None:
        write_predictions(directory, labels[7:37], right)
    return directory


def write_predictions(directory: Path, labels: Sequence[int], right: Sequence[bool]) -> None:
    own = np.array(labels)
    predicted = np.where(right, own, (own + 1) % 3)
    values = np.full((len(own), 3), np.log(0.1), dtype=np.float32)
    values[np.arange(len(own)), predicted] = np.log(0.8)
    for trial in (0, 1):
        path = directory / "trials" / str(trial) / "predictions.npz"
        np.savez(path, ids=np.arange(7, 7 + len(own)), labels=own, log_probabilities=values)


def findings_of(directory: Path) -> Findings:
    return find_out(load_study(directory))


def test_leaked_images_are_named_and_the_score_is_given_without_them(tmp_path: Path) -> None:
    groups = [0, 1, 2, 3, 4, 5, 6, *([0] * 10), *range(17, 37), 3]  # 10 validation images and the test image
    found = findings_of(study_with(tmp_path, groups=groups, right=[True] * 10 + [True, False] * 10))

    validation, test = tell_leaks(found)

    assert "10 of 30 validation images (33%) leaked" in validation
    assert "7.jpg, 8.jpg, 9.jpg, 10.jpg, 11.jpg and 5 more" in validation
    assert "With all validation images the best trial reaches val_accuracy 66.7%" in validation
    assert "without the leaked ones, on 20 images, 50.0%" in validation
    assert "stay on the split" in validation
    assert "1 of 1 test image (100%) leaked" in test
    assert validation in warn_of_data(found)


def test_a_leak_beyond_noise_says_to_believe_the_second_figure(tmp_path: Path) -> None:
    groups = [0, 1, 2, 3, 4, 5, 6, *([0] * 10), *range(17, 37), 37]
    found = findings_of(study_with(tmp_path, groups=groups, right=[True] * 10 + [False] * 20))

    assert "believe the second figure" in tell_leaks(found)[0]


def test_where_few_images_are_not_leaked_neither_score_is_believed(tmp_path: Path) -> None:
    groups = [0, 1, 2, 3, 4, 5, 6, *([0] * 28), 35, 36, 37]
    found = findings_of(study_with(tmp_path, groups=groups, right=[True] * 30))

    assert "neither figure says how good the model is" in tell_leaks(found)[0]


def test_where_all_validation_images_leak_nothing_is_known(tmp_path: Path) -> None:
    found = findings_of(study_with(tmp_path, groups=[0] * 38, right=[True] * 30))

    assert "nothing is known about new images" in tell_leaks(found)[0]


def test_names_that_are_not_utf_8_are_shown_with_question_marks(tmp_path: Path) -> None:
    directory = study_with(tmp_path, right=[False] * 30)
    table = (directory / "data.csv").read_bytes().replace(b"/photos/9.jpg", b"/photos/caf\xe9.jpg")
    (directory / "data.csv").write_bytes(table)

    page = write_report(directory).read_text(encoding="utf-8")

    assert "caf\ufffd.jpg" in page


def test_without_groups_the_report_says_what_a_group_would_be(tmp_path: Path) -> None:
    found = findings_of(study_with(tmp_path, right=[True] * 30))

    text = tell_groups(found)

    assert text.startswith("No grouping was in force: each of the 38 images counts as its own group.")
    assert "--group-by" in text
    assert tell_leaks(found) == []


def test_labels_that_are_a_property_of_the_group_are_explained(tmp_path: Path) -> None:
    # Two groups of images a class: one in training, others for validation.
    groups = [*(i % 3 for i in range(7)), *(3 + i % 3 + 3 * (i > 20) for i in range(7, 37)), 99]
    chance = findings_of(study_with(tmp_path / "a", groups=groups, right=[True, False, False] * 10))
    good = findings_of(study_with(tmp_path / "b", groups=groups, right=[True] * 30))

    text = tell_groups(chance)

    assert "The 38 images are 10 groups, the largest of 16 images" not in text
    assert re.match(r"The 38 images are \d+ groups, the largest of \d+ images", text)
    assert "All images of a group have the same label" in text
    assert "nothing was learned that holds for new groups" in text
    assert "units of every interval and test" in text and "more groups help" in text
    assert "what the table's column group puts together" in text
    assert "All images of a group have the same label" in tell_groups(good)


def test_notes_of_the_listing_are_in_the_section_on_data(tmp_path: Path) -> None:
    note = {"kind": "column", "text": "columns not used: price", "count": 1}
    data = {"classes": ["a", "b", "c"], "source": "/x", "notes": [note]}

    found = findings_of(study_with(tmp_path, data=data))

    assert "Column: columns not used: price." in image_sections(found)[1].body


@pytest.mark.parametrize(
    ("left_out", "is_loud"),
    [
        ("", False),
        ("1 of 100 images cannot be read: /a.jpg (broken)", False),
        ("30 of 100 images cannot be read: /a.jpg (broken)", True),
        ("1,200 of 9,000 images cannot be read: /a.jpg (broken)", True),
        ("some images could not be read", False),
    ],
)
def test_images_left_out_are_in_the_answer_where_they_are_many(
    tmp_path: Path, left_out: str, is_loud: bool
) -> None:
    directory = study_with(tmp_path, data={"classes": ["a", "b", "c"], "source": "/x", "left_out": left_out})

    found = findings_of(directory)

    assert ("were left out" in answer_section(found).body) is is_loud
    assert (f"Left out: {left_out}." in image_sections(found)[1].body) is bool(left_out)


def test_always_answering_the_commonest_class_stands_beside_the_best_value(tmp_path: Path) -> None:
    labels = [0, 1, 2, 0, 0, 0, 0, *([0] * 27), 1, 1, 2, 0]
    directory = study_with(tmp_path, labels=labels, right=[True] * 27 + [False] * 3)
    console = Console(width=200, record=True)

    print_leaderboard(directory, console=console)
    found = findings_of(directory)

    shown = re.sub(r"\s+", " ", console.export_text())
    line = "always answering daisy (27 of 30 validation images) would reach 0.9000."
    assert f"val_accuracy of trial 0 is 0.7000; {line}" in shown
    assert "--metric val_macro_f1 or val_balanced_accuracy" in shown
    assert (
        "Always answering daisy, the commonest class, would reach 90.0%, so it is not better"
        in (say_answer(found)[0])
    )
    assert any("--metric val_macro_f1" in step for step in suggest_next_steps(found))
    assert "always answering daisy" in answer_section(found).body


@pytest.mark.parametrize(
    ("counts", "is_much_larger"),
    [((95, 5), True), ((75, 25), True), ((74, 26), False), ((30, 10, 10), True), ((30, 30, 1), False)],
)
def test_another_metric_is_suggested_where_one_class_has_three_times_the_others_average(
    counts: tuple[int, ...], is_much_larger: bool
) -> None:
    majority = find_majority(np.repeat(np.arange(len(counts)), counts))

    assert majority is not None and majority.is_much_larger is is_much_larger
    assert bool(suggest_metric("val_accuracy", majority)) is is_much_larger
    assert suggest_metric("val_macro_f1", majority) == ""


def test_the_majority_reaches_what_a_constant_answer_scores() -> None:
    majority = find_majority(np.repeat([4, 1, 0, 2], [60, 20, 15, 5]))

    assert majority is not None and majority.label == 4
    assert majority.reaches("val_accuracy") == pytest.approx(0.6)
    assert majority.reaches("val_top3_accuracy") == pytest.approx(0.95)
    assert majority.reaches("val_balanced_accuracy") == pytest.approx(0.25)
    assert majority.reaches("val_macro_f1") == pytest.approx(2 * 0.6 / 1.6 / 4)
    assert majority.reaches("val_loss") is None
    assert find_majority(np.array([], dtype=np.int64)) is None


def photo_study(root: Path, **facts: Any) -> Path:
    """A study whose images are there, some of them wrong and near-duplicates of training images."""
    directory = study_with(root, right=[False] * 30, **facts)
    table = (directory / "data.csv").read_text(encoding="utf-8").replace("/photos", str(root))
    (directory / "data.csv").write_text(table, encoding="utf-8")
    for number in range(38):
        pixels = np.random.default_rng(number // 2).integers(0, 255, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.jpg")
    return directory


PHOTO = re.compile(r"data:image/(jpeg|png|webp)")


def without_code(page: str) -> str:
    """The page without Plotly's code, which holds icons of its own; data of figures stay."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_a_study_without_images_makes_pages_without_a_photo(tmp_path: Path) -> None:
    with_photos, without, asked = (photo_study(tmp_path / name) for name in ("a", "b", "c"))
    facts = json.loads((without / "study.json").read_text(encoding="utf-8"))
    (without / "study.json").write_text(json.dumps(facts | {"no_images": True}), encoding="utf-8")

    pages = [write_report(directory).read_text(encoding="utf-8") for directory in (with_photos, without)]
    assert main(["report", "--no-images", str(asked)]) == 0
    pages.append((asked / "report.html").read_text(encoding="utf-8"))
    pages = [without_code(page) for page in pages]

    assert len(PHOTO.findall(pages[0])) > 10
    for page in pages[1:]:
        assert not PHOTO.findall(page) and "<img" not in page
        assert "This page shows no photo: --no-images." in page
        assert "labelled" in page and "near-duplicate" in page  # the findings stay


def test_the_page_of_3000_classes_is_small_and_quick(tmp_path: Path) -> None:
    names = [f"species {number:04d}" for number in range(3000)]
    directory = make_study(
        tmp_path / "s", [FakeTrial(curve=[0.7])], data={"classes": names, "source": "/x", "num_val": 3000}
    )
    ids = np.arange(9000)
    splits = np.where(ids % 3 == 0, "val", "train")
    rows = [f"{i},/p/{i}.png,{i // 3},{splits[i]},{i},d,c" for i in ids.tolist()]
    header = "id,path,label,split,group,digest,class"
    (directory / "data.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    values = np.random.default_rng(0).normal(size=(3000, 3000)).astype(np.float32)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    path = directory / "trials" / "0" / "predictions.npz"
    np.savez(path, ids=ids[::3], labels=ids[::3] // 3, log_probabilities=values)
    started = time.perf_counter()

    found = findings_of(directory)
    bodies = [classes_section(found).body, *(section.body for section in image_sections(found))]
    bodies.append(answer_section(found).body)

    assert sum(map(len, bodies)) < 500_000
    assert time.perf_counter() - started < 20
    assert f"The figure shows the {MATRIX_CLASSES} classes of 3,000" in bodies[0]


def test_of_many_classes_those_with_the_commonest_confusions_are_shown() -> None:
    counts = np.ones((3, 100), dtype=int)

    shown = choose_shown(counts, [(90, 7, 5), (7, 55, 2)])

    assert {7, 55, 90} <= set(shown) and len(shown) == MATRIX_CLASSES
    assert choose_shown(counts[:, :30], []) == list(range(30))


def test_classes_without_validation_images_are_named_and_nothing_is_nan(tmp_path: Path) -> None:
    directory = study_with(tmp_path, labels=[2, 1, 0, 2, 2, 1, 0, *([0, 1] * 15), 2], right=[True] * 30)

    page = write_report(directory).read_text(encoding="utf-8")

    assert "Without a validation image: tulipán." in page
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), re.IGNORECASE)
