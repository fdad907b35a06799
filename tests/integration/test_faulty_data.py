"""A folder with every fault that is not refused ends in a model and a page that names each."""

from __future__ import annotations

import html
import io
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tune
from contract.study_layout import StudyPaths

ROOT = Path(__file__).parents[2]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

NAMED = (
    "extra, which is no split, with 1 image",
    "seg_pred, which is no split, with 1 image",
    "seg_train/bird, which is empty",
    "seg_train/ray, without an image that can be read: 3 .cr2",
    "seg_train/cat/pipe.jpg (a pipe)",
    "seg_train/owl/gone.jpg (a link to nothing)",
    "written by this program: 'runs'",
    "classes with fewer than 2 images: 'one'",
    "hold several pictures",
    "are transparent in places",
    "have more than 8 bits",
    "lack the end of their file, but nothing of the picture",
    "less than 4 px wide or high",
    "images with the content of another, kept in one split",
    "1 image under two labels: cat/same_as_owl.png and owl/0.png",
    "images in test have a copy, or one of their group, in train",
    "3 of 76 images cannot be read",
)
"""What the output and the page say of the folder's faults."""


class Faulty:
    """Writes noise tinted in a class's colour, and faults of every kind among it."""

    def __init__(self, root: Path) -> None:
        self.root, self.train, self._random = root, root / "seg_train", np.random.default_rng(1)

    def picture(self, channel: int, side: int = 64) -> Image.Image:
        pixels = self._random.integers(0, 160, (side, side, 3))
        pixels[..., channel] += 90
        return Image.fromarray(pixels.astype(np.uint8))

    def put(self, name: str, channel: int) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.picture(channel).save(path)

    def write(self) -> Path:
        for split, count in (("seg_train", 14), ("seg_test", 4)):
            for channel, name in enumerate(("cat", "Dog", "owl")):
                for number in range(count):
                    self.put(f"{split}/{name}/{number}.png", channel)
        for number in range(6):
            self.put(f"seg_train/{COMPOSED}/{number}x.png", 2)
        for name in ("seg_pred/1.png", "extra/2.jpg", "seg_train/cat/@eaDir/t.jpg", "seg_train/one/1.png"):
            self.put(name, 0)
        self.put(f"seg_train/{DECOMPOSED}/1.png", 2)
        self.put("runs/mlflow.db/x.png", 1)
        self._write_what_is_no_image()
        self._write_odd_images()
        for number in range(3):
            shutil.copy(
                self.train / "Dog" / f"{number}.png", self.root / "seg_test/Dog" / f"copy{number}.png"
            )
        shutil.copy(self.train / "owl" / "0.png", self.train / "cat" / "same_as_owl.png")
        return self.root

    def _write_what_is_no_image(self) -> None:
        for name in ("bird", "ray"):
            (self.train / name).mkdir()
        for number in range(3):
            (self.train / "ray" / f"{number}.cr2").write_bytes(b"raw")
        cat = self.train / "cat"
        (cat / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 junk")
        (cat / "empty.png").write_bytes(b"")
        os.mkfifo(cat / "pipe.jpg")
        (self.train / "owl" / "gone.jpg").symlink_to("/nothing")

    def _write_odd_images(self) -> None:
        cat, dog, owl = (self.train / name for name in ("cat", "Dog", "owl"))
        whole = io.BytesIO()
        self.picture(0).save(whole, "JPEG")
        (cat / "noend.jpg").write_bytes(whole.getvalue()[:-2])
        (cat / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
        self.picture(2).save(owl / "anim.gif", save_all=True, append_images=[self.picture(2)])
        deep = self._random.integers(0, 4096, (64, 64)).astype(np.uint16)
        Image.fromarray(deep).save(owl / "deep.png")
        clear = self.picture(1).convert("RGBA")
        clear.putalpha(100)
        clear.save(dog / "alpha.png")
        turned = Image.Exif()
        turned[0x112] = 6
        self.picture(1).save(dog / "turned.tiff", exif=turned)
        self.picture(0).resize((256, 40)).save(cat / "wide.jpg")
        self.picture(0).resize((2, 2)).save(cat / "tiny.png")
        with open(os.fsencode(cat) + b"/na\xefve.png", "wb") as file:  # noqa: PTH123 (bytes)
            self.picture(0).save(file, "PNG")


@pytest.mark.slow
def test_a_folder_with_every_fault_that_is_not_refused_ends_in_a_model_and_a_page(tmp_path: Path) -> None:
    data = Faulty(tmp_path / "f 100%#").write()
    flags = (
        "--trials",
        "1",
        "--max-epochs",
        "1",
        "--image-size",
        "32",
        "--min-images",
        "2",
        "--study",
        "mine",
    )
    places = ("--runs-dir", str(tmp_path / "my runs %20#"), "--cache-dir", str(tmp_path / "cache"))

    done = subprocess.run(
        (sys.executable, "tune.py", "--space", "demo", "--data", str(data), *flags, *places),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    study = StudyPaths(tmp_path / "my runs %20#" / "mine")
    page = html.unescape(study.report.read_text(encoding="utf-8"))
    assert study.model.program.exists()
    assert "4 classes" in done.stdout
    assert [text for text in NAMED if text not in done.stdout + done.stderr] == []
    assert [text for text in NAMED if text not in page] == []
    for name in (b"na\xefve.png", b"turned.tiff", b"noend.jpg", b"wide.jpg"):
        assert name in study.manifest.read_bytes()
    for name in (b"half.jpg", b"broken.jpg", b"@eaDir", b"runs/"):
        assert name not in study.manifest.read_bytes()


@pytest.mark.parametrize(
    ("files", "table", "expected"),
    [
        (
            ("fold_1/cat", "fold_1/dog", "fold_2/cat", "fold_2/dog"),
            "",
            "these look like splits: 'fold_1', 'fold_2'",
        ),
        (("photos/cat", "photos/dog"), "", "class folders seem to be 'cat', 'dog': pass "),
        (("cat",), "", "only one class"),
        (("cat", "dog"), "where,what\ncat/0.png,x\n", "expected path,label[,split][,group]"),
        (("cat", "dog"), "path,label,split\ncat/0.png,x,later\n", "split must be train, val, test or empty"),
        (("cat", "dog"), "path,label\nhttp://127.0.0.1/a.png,x\n", "is a URL"),
        (("cat", "dog"), "path,a,b\ncat/0.png,1,1\ndog/0.png,0,1\n", "several labels are not supported"),
        (("cat", "dog"), "path,label\nnone/a.png,x\nnone/b.png,y\n", "none of its images exists"),
    ],
)
def test_data_that_cannot_be_meant_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: tuple[str, ...], table: str, expected: str
) -> None:
    faulty = Faulty(tmp_path / "data")
    for folder in files:
        for number in range(3):
            faulty.put(f"{folder}/{number}.png", number)
    source = tmp_path / "data"
    if table:
        source = source / "list.csv"
        source.write_text(table, encoding="utf-8")
    places = ("--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache"))

    code = tune.main(["--space", "demo", "--data", str(source), "--dry-run", *places])

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
