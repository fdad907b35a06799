"""The command `python -m serving check`: does this machine answer as the one that exported the model?

Every format that the model's directory has is run on the golden images, from the files on, and compared with
the probabilities that were written when the model was exported; then latency and throughput are measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.decoding import Floats
from contract.files import first_line
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.model import Format, Model, find_formats, find_model, load_model

TOLERANCE_CPU, TOLERANCE_GPU = 1e-4, 1e-2
"""Largest difference of a probability that is taken for rounding; a GPU may multiply in fewer bits."""

TOLERANCE_INT8 = 0.25
"""The same of whole numbers of 8 bits, whose labels may differ where two classes are closer than that."""

BATCH, REPEATS = 16, 7
"""Images of one batch when throughput is measured, and how often it is measured."""


@dataclass(frozen=True, kw_only=True)
class FormatCheck:
    """What one format did on this machine."""

    format: Format
    difference: float
    """Largest difference of a probability of the golden images."""

    changed: int
    """Golden images with another label, of which the two likeliest classes are not within the tolerance."""

    images: int
    milliseconds: float
    """Median time of one image alone, already decoded."""

    images_per_second: float
    """Median over batches of 16 decoded images."""

    problem: str = ""
    """Why it could not be run, or "" where it could."""

    tolerance: float = TOLERANCE_CPU

    @property
    def agrees(self) -> bool:
        """True if it ran, and answered as the golden images say."""
        return not self.problem and self.changed == 0 and self.difference <= self.tolerance


def main(argv: Sequence[str] | None = None) -> int:
    """Check a model; exit code 1 means that a format answers otherwise, or a file is not what it was."""
    flags = _make_parser().parse_args(argv)
    model = find_model(flags.model, runs_dir=flags.runs_dir)
    card = ModelCard.load(model)
    images, expected = load_golden(model, card)
    changed = model.find_changed()
    formats = [Format(name) for name in flags.formats] or find_formats(model)
    checks = [check_format(model, one, images, expected, device=flags.device) for one in formats]
    if flags.json:
        rows = [{**asdict(one), "agrees": one.agrees} for one in checks]
        print(json.dumps({"changed_files": changed, "formats": rows}))
    else:
        print_checks(model, checks, changed)
    return 0 if checks and all(one.agrees for one in checks) and not changed else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving check", description=__doc__)
    parser.add_argument("model", help="a study's name or directory, or a model's directory")
    parser.add_argument("--formats", nargs="+", default=[], choices=list(Format), help="only these")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto [%(default)s]")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of studies [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    return parser


def load_golden(model: ModelPaths, card: ModelCard) -> tuple[Floats, Floats]:
    """Decode the golden images: [N, 3, S, S], and the probabilities that they should get, [N, classes].

    Raises:
        ValueError: they are missing or damaged.
    """
    try:
        rows = json.loads(model.golden_facts.read_text(encoding="utf-8"))["images"]
        expected = np.array([row["probabilities"] for row in rows], dtype=np.float32)
        images = np.stack([card.read_image(model.golden / row["file"]) for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{model.golden} holds no golden images that can be read ({first_line(error)}): export the model "
            "again with finalize.py"
        ) from error
    if expected.shape != (len(images), len(card.classes)):
        raise ValueError(f"{model.golden_facts} is of a model with other classes: export the model again")
    return images, expected


def check_format(
    model: ModelPaths, format: Format, images: Floats, expected: Floats, *, device: str = "auto"
) -> FormatCheck:
    """Run one format on the golden images [N, 3, S, S], and measure it; a failure is told, not raised."""
    tolerance = _choose_tolerance(format, device)
    try:
        loaded = load_model(model, format, device=device)
        found, _ = loaded.compute(images)  # with the program for unknown classes, if there is one
        milliseconds, images_per_second = _measure(loaded, images)
    except Exception as error:  # whatever a library raises on a file of another version or another machine
        return FormatCheck(
            format=format,
            difference=float("nan"),
            changed=0,
            images=len(images),
            milliseconds=float("nan"),
            images_per_second=float("nan"),
            problem=first_line(error),
        )
    difference, changed = compare(found, expected, tolerance=tolerance)
    return FormatCheck(
        format=format,
        difference=difference,
        changed=changed,
        images=len(images),
        milliseconds=milliseconds,
        images_per_second=images_per_second,
        tolerance=tolerance,
    )


def compare(found: Floats, expected: Floats, *, tolerance: float) -> tuple[float, int]:
    """Compare probabilities [N, classes]: the largest difference, and the number of changed labels.

    A label counts as changed unless the classes that change places are within the tolerance.
    """
    rows = np.arange(len(expected))
    lead = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
    return float(np.abs(found - expected).max()), int((lead > tolerance).sum())


def _choose_tolerance(format: Format, device: str) -> float:
    if format is Format.INT8:
        return TOLERANCE_INT8
    if device == "cpu" or format is Format.ONNX:
        return TOLERANCE_CPU
    from serving.backends.with_torch import choose_device

    return TOLERANCE_GPU if choose_device(device).type == "cuda" else TOLERANCE_CPU


def _measure(model: Model, images: Floats) -> tuple[float, float]:
    """Median milliseconds of one image alone, and images per second in batches of BATCH."""
    batch = np.ascontiguousarray(np.resize(images, (BATCH, *images.shape[1:])))
    alone, together = [], []
    for _ in range(REPEATS):
        alone.append(_time(model, batch[:1]))
        together.append(_time(model, batch))
    return 1000 * statistics.median(alone), BATCH / statistics.median(together)


def _time(model: Model, images: Floats) -> float:
    began = time.perf_counter()
    model.predict(images)
    return time.perf_counter() - began


def print_checks(model: ModelPaths, checks: Sequence[FormatCheck], changed: Sequence[str]) -> None:
    """Print a table of the formats, and what is wrong."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    heads = ("format", "largest difference", "changed labels", "ms an image", "images/s", "")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if 0 < number < 5 else "left")
    for one in checks:
        values: list[Any] = ["", "", "", ""]
        if not one.problem:
            counts = f"{one.changed} of {one.images}"
            speed = (f"{one.milliseconds:.1f}", f"{one.images_per_second:.0f}")
            values = [f"{one.difference:.1e}", counts, *speed]
        verdict = one.problem or ("agrees" if one.agrees else f"differs (at most {one.tolerance:g})")
        table.add_row(one.format.value, *values, verdict)
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"{model.directory}: {checks[0].images if checks else 0} golden images")
    console.print(table)
    for name in changed:
        console.print(f"{name} is missing, or not what it was when the model was exported")
