"""File names in the directory of an exported model, which needs nothing of this project to be used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.model_digest import digest_content

CODE_FILES = (
    "decoding.py",
    "image_formats.py",
    "image_repair.py",
    "image_resize.py",
    "model_answers.py",
    "model_card.py",
    "model_digest.py",
    "model_layout.py",
    "unknown_score.py",
)
"""Files of this package that a model takes copies of: all that stands between photos and answers but the
program itself. They import numpy and Pillow only."""


@dataclass(frozen=True)
class ModelPaths:
    """Files of an exported model."""

    directory: Path

    @property
    def program(self) -> Path:
        """The program that torch.export writes: images in, probabilities out."""
        return self.directory / "classifier.pt2"

    @property
    def card(self) -> Path:
        """Classes, image size, thresholds and origin, as JSON."""
        return self.directory / "export.json"

    @property
    def unknown(self) -> Path:
        """Images and their probabilities in, a score out that is low for images of unknown classes.

        Only there if the score needs more than the probabilities.
        """
        return self.directory / "unknown.pt2"

    @property
    def onnx(self) -> Path:
        """The program as ONNX; there if it was asked for, as `unknown_onnx`, `int8` and `timm` are."""
        return self.directory / "model.onnx"

    @property
    def unknown_onnx(self) -> Path:
        return self.directory / "unknown.onnx"

    @property
    def int8(self) -> Path:
        """The program as ONNX in whole numbers of 8 bits."""
        return self.directory / "model.int8.onnx"

    @property
    def timm(self) -> Path:
        """Folder that `timm.create_model("local-dir:…")` loads: normalised images in, logits out."""
        return self.directory / "timm"

    @property
    def labels(self) -> Path:
        """Names of the classes, one a line."""
        return self.directory / "labels.txt"

    @property
    def readme(self) -> Path:
        """The card for people, with its scores in the model-index form of the model hub."""
        return self.directory / "README.md"

    @property
    def golden(self) -> Path:
        """Folder with the golden images, by which a machine is checked to answer as this one did."""
        return self.directory / "golden"

    @property
    def golden_facts(self) -> Path:
        """JSON: of each golden image its file and its probabilities."""
        return self.golden / "golden.json"

    @property
    def code(self) -> Path:
        """Folder with the package of CODE_FILES."""
        return self.directory / "code"

    @property
    def example(self) -> Path:
        return self.directory / "example.py"

    @property
    def checksums(self) -> Path:
        """SHA-256 of every other file, as `sha256sum --check` reads it."""
        return self.directory / "checksums.sha256"

    @property
    def is_whole(self) -> bool:
        """True if all files are there that every model has, which those of earlier versions lack."""
        files = (self.program, self.card, self.labels, self.golden_facts, self.example)
        return all(path.is_file() for path in files)

    def digest(self) -> str | None:
        """A hash of what card and programs hold, to tell exports apart; None without card or program.

        The same model exported again has the same.
        """
        return self._digest(whole_card=True, further=[self.unknown] if self.unknown.exists() else [])

    def identity(self) -> str | None:
        """A hash of what decides the model's answers alone, by which a reading of the test split is its.

        Scores on its card and the name of its study may change.
        """
        return self._digest(whole_card=False)

    def _digest(self, *, whole_card: bool, further: Sequence[Path] = ()) -> str | None:
        try:
            return digest_content([self.program, *further], self.card, whole_card=whole_card)
        except FileNotFoundError:
            return None

    def write_checksums(self) -> None:
        """Write the checksums of all files that there are."""
        lines = [f"{hash_file(path)}  {name}\n" for name, path in self._files().items()]
        self.checksums.write_text("".join(lines), encoding="utf-8")

    def find_changed(self) -> list[str]:
        """Names of files that are missing, or not what they were when the checksums were written.

        Raises:
            ValueError: there are no checksums.
        """
        try:
            lines = self.checksums.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.checksums} is missing or damaged: export the model again") from error
        wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        there = self._files()
        return [name for name in wanted if name not in there or hash_file(there[name]) != wanted[name]]

    def _files(self) -> dict[str, Path]:
        paths = (path for path in sorted(self.directory.rglob("*")) if "__pycache__" not in path.parts)
        found = {path.relative_to(self.directory).as_posix(): path for path in paths if path.is_file()}
        found.pop(self.checksums.name, None)
        return found


def hash_file(path: Path) -> str:
    """Hash a file's bytes by SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
