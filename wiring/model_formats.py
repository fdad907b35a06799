"""Adds other formats to an exported model, each only where it answers as the model's program does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from analysis.answer.model_readme import describe_format
from contract.answer import Combination, MemberRef
from contract.decoding import Fit
from contract.files import fill_aside, first_line, remove_leftovers, temporary_names, to_json
from contract.messages import StudySettings
from contract.model_digest import FORMATS
from contract.model_layout import ModelPaths, hash_file
from wiring.unknown_class import needs_program

if TYPE_CHECKING:
    from trainables.export.format_parity import Agreement
    from trainables.export.split_predictions import SplitPredictions

LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "int8": ("onnx", "onnxscript", "onnxruntime")}
"""Modules that a format needs beside what is always installed; all are in the extra `onnx`."""

ORDER = ("onnx", "int8", "timm")
"""int8 is made of what onnx is."""


def check_libraries(formats: Sequence[str]) -> None:
    """Check that what writes the formats is installed.

    Raises:
        ValueError: a library is missing.
    """
    for name in formats:
        missing = [one for one in LIBRARIES.get(name, ()) if importlib.util.find_spec(one) is None]
        if missing:
            raise ValueError(
                f"--export {name} needs {', '.join(missing)}: pip install 'unfreeze[onnx]' brings them"
            )


@dataclass(frozen=True, kw_only=True)
class FormatAdder:
    """Adds formats to one model's directory, all at once or none."""

    model: ModelPaths
    settings: StudySettings
    """Settings of the study whose validation and training images are used."""

    say: Callable[[str], None]
    configs: Mapping[MemberRef, Mapping[str, Any]] = field(default_factory=dict)
    """Configurations of the members; none of a cascade."""

    find_labels: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    """Classes of images by their ids; None = those of the study."""

    def add(self, formats: Sequence[str], console: Console) -> bool:
        """Add what is lacking, and say of each format what came of it.

        Returns:
            False if one was refused.

        Raises:
            ValueError: the model is damaged.
        """
        asked = dict.fromkeys(sorted(formats, key=list(ORDER).index))
        lacking = [name for name in asked if not self._is_there(name)]
        for name in asked:
            if name not in lacking:
                self.say(f"{name}: is there already, of this model")
        if not lacking:
            return True
        remove_leftovers(self.model.directory.parent, self.model.directory.name)  # of a run that was killed
        with temporary_names(self.model.directory) as (work,):
            work.mkdir()
            made = {}
            for name in lacking:
                folder = ModelPaths(work / name)
                folder.directory.mkdir(exist_ok=True)
                with console.status(f"writing {name}, and comparing it on all validation images"):
                    facts = self._make(name, folder)
                if facts is not None:
                    made[name] = facts
            if made:
                self._place(made, work)
        return len(made) == len(lacking)

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model's card.

        Raises:
            ValueError: it is missing or damaged.
        """
        return read_card(self.model)

    @cached_property
    def identity(self) -> str | None:
        """Hash of what the model answers, which a format is of."""
        return self.model.identity()

    @property
    def fit(self) -> Fit:
        found: Fit = self.card["fit"]
        return found

    def _is_there(self, name: str) -> bool:
        facts = (self.card.get(FORMATS) or {}).get(name)
        if not facts or facts.get("of") != self.identity:
            return False
        files = {self.model.directory / one: known for one, known in facts["files"].items()}
        return all(path.is_file() and hash_file(path) == known for path, known in files.items())

    def _make(self, name: str, folder: ModelPaths) -> dict[str, Any] | None:
        """Write a format into a folder of its own; None, with a line that says why, if it is refused."""
        make = {"onnx": self._make_onnx, "int8": self._make_int8, "timm": self._make_timm}[name]
        try:
            facts = make(folder)
        except ValueError as error:
            self.say(f"{name}: refused: {first_line(error)}")
            return None
        files = sorted(path for path in folder.directory.rglob("*") if path.is_file())
        names = {path.relative_to(folder.directory).as_posix(): hash_file(path) for path in files}
        size = sum(path.stat().st_size for path in files) / 1e6
        self.say(f"{name}: {' and '.join(names)}, {size:.1f} MB: {describe_format(facts)}")
        return {"files": names, "of": self.identity, **facts}

    def _make_onnx(self, folder: ModelPaths) -> dict[str, Any]:
        opset = self._write_onnx(folder.onnx)
        agreement = self._compare_onnx(folder.onnx)
        agreement.check_equal()
        return {"opset": opset, **agreement.as_values(), **self._make_scorer(folder)}

    def _make_int8(self, folder: ModelPaths) -> dict[str, Any]:
        from trainables.export.int8_program import write_int8

        source = ModelPaths(folder.directory.with_name("onnx")).onnx  # made just now, if that was asked for
        if not source.is_file():
            source.parent.mkdir(exist_ok=True)
            self._write_onnx(source)
        num_images = write_int8(source, folder.int8, settings=self.settings, fit=self.fit)
        agreement = self._compare_onnx(folder.int8)
        agreement.check_near()
        return {
            "calibration_images": num_images,
            **agreement.as_values(),
            **self._make_scorer(folder),
        }

    def _make_timm(self, folder: ModelPaths) -> dict[str, Any]:
        from trainables.export.timm_folder import load_timm_program, write_timm_folder

        if "members" not in self.card:
            raise ValueError("the model is no single network with one linear layer: it is a cascade")
        try:
            architecture = write_timm_folder(
                Combination.from_values(self.card),
                self.configs,
                self.settings,
                storage_size=int(self.card["storage_size"]),
                target=folder.timm,
            )
        except ValueError as error:
            raise ValueError(f"the model is no single network with one linear layer: {error}") from error
        agreement = self._compare(load_timm_program(folder.timm))
        agreement.check_equal()
        return {"architecture": architecture, **agreement.as_values()}

    def _write_onnx(self, target: Path) -> int:
        from trainables.export.onnx_program import write_onnx

        return write_onnx(
            self.model.program,
            target,
            output="probabilities",
            metadata={name: self.card[name] for name in ("classes", "image_size", "fit", "storage_size")},
        )

    def _make_scorer(self, folder: ModelPaths) -> dict[str, Any]:
        """Write the program for unknown classes, too, where the model has one."""
        if not needs_program(self.card):
            return {}
        from trainables.export.format_parity import check_scores
        from trainables.export.onnx_program import load_onnx, write_onnx
        from trainables.export.program import load_program
        from trainables.export.unknown_program import score_images

        write_onnx(self.model.unknown, folder.unknown_onnx, output="scores", metadata={})
        reference = self._reference
        scores = [
            score_images(
                program,
                self.settings,
                "val",
                fit=self.fit,
                ids=reference.ids,
                probabilities=np.exp(reference.log_probabilities),
            )
            for program in (load_program(self.model.unknown).module(), load_onnx(folder.unknown_onnx))
        ]
        return {"largest_score_difference": check_scores(*scores)}

    def _compare_onnx(self, path: Path) -> Agreement:
        from trainables.export.onnx_program import load_onnx

        return self._compare(load_onnx(path))

    def _compare(self, program: Any) -> Agreement:
        from trainables.export.format_parity import compare
        from trainables.export.split_predictions import predict_split

        reference = self._reference
        found = predict_split(program, self.settings, "val", fit=self.fit)
        labels = reference.labels if self.find_labels is None else self.find_labels(reference.ids)
        return compare(
            np.exp(reference.log_probabilities),
            np.exp(found.log_probabilities),
            labels,
            operating_point=(self.card.get("thresholds") or {}).get("operating_point"),
        )

    @cached_property
    def _reference(self) -> SplitPredictions:
        """What the model's program predicts for all validation images."""
        from trainables.export.program import load_program
        from trainables.export.split_predictions import predict_split

        program = load_program(self.model.program).module()
        return predict_split(program, self.settings, "val", fit=self.fit)

    def _place(self, made: Mapping[str, Mapping[str, Any]], work: Path) -> None:
        """Put a directory with the new files, and the card that names them, in the model's place."""
        with fill_aside(self.model.directory, replace=True, durable=True) as part:
            shutil.copytree(self.model.directory, part, copy_function=link, dirs_exist_ok=True)
            target = ModelPaths(part)
            for name, facts in made.items():
                for one in facts["files"]:
                    path = part / one
                    path.parent.mkdir(parents=True, exist_ok=True)
                    (work / name / one).replace(path)
            card = {**self.card, FORMATS: {**(self.card.get(FORMATS) or {}), **made}}
            for path in (target.card, target.checksums):
                path.unlink(missing_ok=True)  # it is the present model's, too
            target.card.write_text(to_json(card), encoding="utf-8")
            target.write_checksums()


@contextmanager
def telling_lost_formats(
    model: ModelPaths, say: Callable[[str], None], *, asked: Sequence[str] = ()
) -> Iterator[None]:
    """Say which formats of an earlier model have gone with it, but for those that are asked for now."""
    before = list_formats(model)
    yield
    there = list_formats(model)
    lost = [name for name in before if name not in there and name not in asked]
    if lost:
        names = " ".join(lost)
        say(f"exported formats of the earlier model are gone: finalize.py --export {names} adds them again")


def list_formats(model: ModelPaths) -> list[str]:
    """Names of the formats on the model's card; none without a model."""
    try:
        return list(read_card(model).get(FORMATS) or {})
    except ValueError:
        return []


def read_card(model: ModelPaths) -> dict[str, Any]:
    """Read a model's card.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        card: dict[str, Any] = json.loads(model.card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{model.card} is missing or damaged: run finalize.py on its study again") from error
    return card


def link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
