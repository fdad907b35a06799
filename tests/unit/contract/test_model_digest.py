"""Two exports of one classifier have one digest, and whatever changes its answers another."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from contract.model_layout import ModelPaths

CARD = {"classes": ["a", "b"], "image_size": 32, "study": "s", "scores": {"val_loss": 0.5}, "thresholds": {}}


def write(
    folder: Path, *, weights: bytes = b"w", target: str = "conv", line: int = 1, wrote: str = "1", **card: Any
) -> ModelPaths:
    """A model as torch writes it: weights, a graph with its origin, and marks of the writing."""
    model = ModelPaths(folder)
    folder.mkdir(parents=True)
    node = {"target": target, "metadata": {"stack_trace": f'File "/home/{line}.py", line {line}'}}
    graph = {"graph_module": {"graph": {"nodes": [node]}}, "torch_version": wrote}
    with zipfile.ZipFile(model.program, "w") as archive:
        archive.writestr("classifier/data/weights/weight_0", weights)
        archive.writestr("classifier/models/model.json", json.dumps(graph))
        archive.writestr("classifier/.data/serialization_id", wrote)
    model.card.write_text(json.dumps(CARD | card), encoding="utf-8")
    return model


def test_an_export_from_another_checkout_is_the_same_model(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1"), write(tmp_path / "2", line=7, wrote="2")

    assert one.program.read_bytes() != other.program.read_bytes()
    assert (one.digest(), one.identity()) == (other.digest(), other.identity())


@pytest.mark.parametrize(
    "change",
    [{"weights": b"v"}, {"target": "linear"}, {"classes": ["b", "a"]}, {"thresholds": {"unknown": 0.5}}],
)
def test_what_changes_answers_makes_another_model(tmp_path: Path, change: dict[str, Any]) -> None:
    one, other = write(tmp_path / "1"), write(tmp_path / "2", **change)

    assert one.digest() != other.digest()
    assert one.identity() != other.identity()


def test_other_formats_beside_a_program_leave_the_model_what_it_is(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1"), write(tmp_path / "2", formats={"onnx": {"opset": 20}})

    assert (one.digest(), one.identity()) == (other.digest(), other.identity())


@pytest.mark.parametrize("change", [{"study": "t"}, {"scores": {}}, {"rule": "single"}])
def test_what_only_describes_it_is_published_anew_but_read_once(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    one, other = write(tmp_path / "1"), write(tmp_path / "2", **change)

    assert one.digest() != other.digest()
    assert one.identity() == other.identity()


def test_files_that_are_damaged_have_a_digest_and_missing_ones_none(tmp_path: Path) -> None:
    model = write(tmp_path / "1")
    whole = model.digest()
    model.program.write_bytes(model.program.read_bytes()[:50])
    torn = model.digest()
    model.card.write_text("{")

    assert len({whole, torn, model.digest()}) == 3
    model.program.unlink()
    assert model.digest() is None
