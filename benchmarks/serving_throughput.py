"""Images a second of `serving predict` beside a bare loop that decodes a batch, computes it, and goes on.

    python -m benchmarks serving_throughput --model flowers --photos PHOTOS

Both run in this process, on the same loaded program and the same files, in turns; a ratio is that of a pair
of turns. The bare loop does what a short script would: it decodes the photos of a batch one after the other,
and computes them on all cores. Beside it stand decoding alone and computing alone. The rows of predict are
written to a file, as with --out. Starting the process and loading the program count for neither. What a
server makes of the same program, `python -m benchmarks serving_requests` measures. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from contract.decoding import Floats
from contract.image_names import is_image
from contract.machine import count_cpus
from contract.model_answers import DEFAULT_COVERAGE, needs_scores
from serving.model import Format, Model, find_model, load_model
from serving.prediction.batches import BatchSize, predict_photos
from serving.prediction.photos import Listing
from serving.prediction.results_file import open_results
from serving.prediction.rows import Form, Row, make_format

BARE_SIZES = (8, 16, 32)
"""Batches of the bare loop; the quicker counts."""


def take_photos(folder: Path, number: int) -> list[Path]:
    """Take so many photos, evenly spread over a folder."""
    paths = sorted(path for path in folder.rglob("*") if is_image(path.name))
    if not paths:
        raise ValueError(f"{folder} holds no image")
    return paths[:: max(1, len(paths) // number)][:number]


def run_bare(model: Model, paths: Sequence[Path], size: int) -> None:
    """Decode a batch, compute it, and go on."""
    for start in range(0, len(paths), size):
        run_programs(model, np.stack([model.card.read_image(path) for path in paths[start : start + size]]))


def run_programs(model: Model, images: Floats) -> None:
    """Compute the probabilities, and the scores by which unknown images are told, if the model has any."""
    probabilities = model.backend.probabilities(images)
    if needs_scores(model.card):
        model.backend.scores(images, probabilities)


def decode(model: Model, paths: Sequence[Path]) -> None:
    for path in paths:
        model.card.read_image(path)


def compute(model: Model, number: int, size: int) -> None:
    side = model.card.image_size
    images = np.random.default_rng(0).random((size, 3, side, side), dtype=np.float32)
    for start in range(0, number, size):
        run_programs(model, images[: min(size, number - start)])


def run_predict(model: Model, paths: Sequence[Path], threads: int) -> int:
    """Predict as the command does, into a file; returns the size of the batch that it found."""
    size = BatchSize(None, bytes_per_image=12 * model.card.image_size**2)
    rows = make_format(Form.CSV, model.card.classes, with_all=False)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.csv"
        with open_results(out, rows, {}, overwrite=False) as results:
            results.start()
            photos = iter(Listing([str(path) for path in paths]))
            waiting = []
            answers = predict_photos(model, photos, coverage=DEFAULT_COVERAGE, threads=threads, size=size)
            for photo, answer in answers:
                waiting.append(Row.of(photo.name, answer, with_set=True, with_all=False))
                if len(waiting) == 256:
                    results.append(waiting)
                    waiting = []
            results.append(waiting)
        assert results.num_rows == len(paths)
    return size.size


def clock(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and seconds that the process computes on all cores together."""
    began, cpu_began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu_began


def measure(model: Model, paths: Sequence[Path], *, repeats: int, threads: int) -> dict[str, Any]:
    """Time all rows in turns: images a second of each turn, and the batch that predict found."""
    number = len(paths)
    found: list[int] = []
    works: dict[str, Callable[[], Any]] = {
        "decoding alone": lambda: decode(model, paths),
        "computing alone": lambda: compute(model, number, 32),
        **{f"bare loop, batches of {size}": partial(run_bare, model, paths, size) for size in BARE_SIZES},
        "predict": lambda: found.append(run_predict(model, paths, threads)),
    }
    for work in works.values():
        work()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(clock(work))
    rates = {name: [number / one for one, _ in times] for name, times in seconds.items()}
    cpu = {name: [1000 * one / number for _, one in times] for name, times in seconds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items() if name.startswith("bare")}
    bare = max(medians, key=lambda name: medians[name])
    ratios = [mine / other for mine, other in zip(rates["predict"], rates[bare], strict=True)]
    return {"rates": rates, "cpu_ms": cpu, "bare": bare, "ratios": ratios, "batch": statistics.mode(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a study's name, or a model's directory")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--model-format", choices=[str(one) for one in Format], default="pt2")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7, help="turns; medians count")
    flags = parser.parse_args()
    cores = count_cpus()
    paths = take_photos(flags.photos, flags.images)
    found = find_model(flags.model, runs_dir=flags.runs_dir)
    model = load_model(found, Format(flags.model_format), threads=cores)
    result = measure(model, paths, repeats=flags.repeats, threads=cores)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("row", "images a second", "least", "most", "CPU ms an image"):
        table.add_column(head)
    for name, rates in result["rates"].items():
        cpu = statistics.median(result["cpu_ms"][name])
        values = (statistics.median(rates), min(rates), max(rates), cpu)
        table.add_row(name, *(f"{value:.1f}" for value in values))
    Console().print(table)
    ratios = result["ratios"]
    print(
        f"predict / {result['bare']}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to"
        f" {max(ratios):.2f}), target 0.90; predict's batches: {result['batch']}"
    )
    about = {"images": len(paths), "image_size": model.card.image_size, "cores": cores}
    print(json.dumps(about | {"torch": torch.__version__, "repeats": flags.repeats} | result))


if __name__ == "__main__":
    main()
