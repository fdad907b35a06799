"""The command trains, judges and writes a folder that tune.py can read, and refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.synthetic_images import FILE_NAME, SyntheticImages
from trainables.data.datasets import find_images
from trainables.synthesis import epochs
from trainables.synthesis.output import OutputFolder, name_folders
from trainables.synthesize import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 16 images, one of them with a name that no folder of ours may have."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("apple", "Löwe, groß", "pear"):
        (folder / name).mkdir()
        for at in range(16):
            coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((40, 40)).save(folder / name / f"{at:02d}.png")
    return folder


@pytest.fixture
def command(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(epochs, "UPDATES", 3)
    shared = ["--data", str(photos), "--out", str(tmp_path / "made"), "--cache-dir", str(tmp_path / "cache")]
    return [*shared, "--image-size", "32", "--images", "4", "--epochs", "1", "--device", "cpu"]


def test_command_writes_images_and_their_list(command: list[str], tmp_path: Path) -> None:
    made = tmp_path / "made"

    assert main([*command, "--keep-collapsed"]) == 0

    found = SyntheticImages.load(made)
    assert [(row.name, row.folder, row.images) for row in found.classes] == [
        ("Löwe, groß", "Lowe_ gro", 4),
        ("apple", "apple", 4),
        ("pear", "pear", 4),
    ]
    images = found.list_images(made)
    assert np.asarray(Image.open(images["pear"][3])).shape == (32, 32, 3)
    assert found.quality["classes"]["apple"]["collapsed"], "three updates are no training"
    assert len(found.train_digests) == 3 * 11
    assert (made / "samples.png").exists()
    assert (made / ".training" / "samples_0001.png").exists()
    listing = find_images(str(made), cache_dir=tmp_path)
    assert len(listing.paths) == 12, "a listing passes over the sheet and the training"


def test_collapse_writes_nothing_and_says_what_to_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1

    said = capsys.readouterr()
    assert said.out.count("COLLAPSED: ") == 3
    assert "nothing was written. Train longer" in said.err
    assert not (tmp_path / "made" / FILE_NAME).exists()


def test_same_command_goes_on_and_other_classes_replace_the_images(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*command, "--keep-collapsed", "--classes", "apple"])
    before = (tmp_path / "made" / "apple" / "00000.png").read_bytes()
    capsys.readouterr()

    assert main([*command, "--keep-collapsed"]) == 0
    assert "going on after update 3" in capsys.readouterr().out
    assert (tmp_path / "made" / "apple" / "00000.png").read_bytes() == before

    assert main([*command, "--keep-collapsed", "--classes", "pear"]) == 0
    assert not (tmp_path / "made" / "apple").exists()
    assert [row.name for row in SyntheticImages.load(tmp_path / "made").classes] == ["pear"]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--image-size", "32"], "pixels"),
        (["--image-size", "64"], "pretrained"),
        (["--image-size", "64", "--discriminator", "pixels"], "pixels"),
    ],
)
def test_pretrained_network_judges_from_64_pixels_on(
    command: list[str], tmp_path: Path, flags: list[str], found: str
) -> None:
    main([*command, *flags])

    settings = json.loads(OutputFolder(tmp_path / "made").settings.read_text())
    assert settings["discriminator"] == found


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--image-size", "48"], "must be one of 32, 64, 128"),
        (["--classes", "peer"], "did you mean pear?"),
        (["--classes", "rare"], "no class has fewer"),
        (["--time-budget", "soon"], "must be a duration"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(
    command: list[str], flags: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *flags]) == 2

    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_folder_inside_the_data_is_refused(
    command: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--out", str(photos / "made")]) == 2
    assert "lies in the data" in capsys.readouterr().err


def test_folder_of_another_training_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = OutputFolder(tmp_path / "made").settings
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"seed": 9}))

    assert main(command) == 2
    assert "trained with other settings or images" in capsys.readouterr().err


def test_folder_names_are_safe_and_different() -> None:
    names = name_folders(["a/b", "a_b", "A_B", "..", "train", "7", "東京", "x" * 300])

    assert names[0] == "a_b"
    assert len({name.casefold() for name in names}) == len(names)
    assert names[5] == "7"
    assert names[4] != "train"
    assert all(name.isascii() and "/" not in name and not name.startswith(".") for name in names)
    assert max(map(len, names)) <= 70
