"""The list of a folder of synthetic images is read back as it was written, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract.synthetic_images import FILE_NAME, SyntheticClass, SyntheticImages, image_name


def make_list(**changes: object) -> SyntheticImages:
    values: dict[str, object] = {
        "source": "photos",
        "fingerprint": "abc",
        "split_seed": 3,
        "image_size": 32,
        "generator": "conditional GAN",
        "seed": 5,
        "classes": (SyntheticClass(name="a/b", folder="a_b", images=2),),
        "quality": {"overall": {"precision": 0.5}},
        "train_digests": ("0123456789abcdef",),
        "created_with": "0.2.0",
    }
    return SyntheticImages(**{**values, **changes})  # type: ignore[arg-type]


def test_list_reads_back_as_written(tmp_path: Path) -> None:
    written = make_list()
    written.save(tmp_path)
    assert SyntheticImages.load(tmp_path) == written


def test_folder_without_a_list_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no finished synthetic images.*synthesize"):
        SyntheticImages.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "format None"),
        ('{"format": 2}', "reads 1"),
        ('{"format": 1}', "damaged"),
    ],
)
def test_list_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match=why) as refused:
        SyntheticImages.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_images_of_a_class_are_listed_in_order(tmp_path: Path) -> None:
    (tmp_path / "a_b").mkdir()
    for number in (1, 0):
        (tmp_path / "a_b" / image_name(number)).touch()
    found = make_list().list_images(tmp_path)
    assert [path.name for path in found["a/b"]] == ["00000.png", "00001.png"]


def test_folder_with_other_images_than_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a_b").mkdir()
    (tmp_path / "a_b" / image_name(0)).touch()
    with pytest.raises(ValueError, match=r"has 1 image, and synthetic\.json says 2"):
        make_list().list_images(tmp_path)


def test_images_that_the_generator_was_trained_on_are_found_by_their_digest() -> None:
    seen, unseen = "0123456789abcdef" + 48 * "0", 64 * "f"
    assert make_list().trained_on([seen, unseen]) == {seen}


def test_names_in_other_scripts_stay_readable(tmp_path: Path) -> None:
    make_list(classes=(SyntheticClass(name="Löwenzahn", folder="Lowenzahn", images=0),)).save(tmp_path)
    text = (tmp_path / FILE_NAME).read_text(encoding="utf-8")
    assert "Löwenzahn" in text
    assert json.loads(text)["format"] == 1
