"""What the defaults of `python -m trainables synthesize` rest on: copies, collapse, and the discriminator.

    python -m benchmarks gan_quality copies digits:32 PHOTOS:64 …
    python -m benchmarks gan_quality collapse digits:32 PHOTOS:64 …
    python -m benchmarks gan_quality discriminators digits:32 PHOTOS:64 … --minutes 8 --seeds 0 1

A data set is what tune.py takes for --data, with the image size in pixels. `copies`: how many changed copies
of train images the rule for copies finds, and how many real images that it never saw it takes for copies.
`collapse`: for how many classes the alarm goes off where a few real images come again and again, slightly
changed, and where they are other real images of the class. `discriminators`: quality after so many minutes
with either. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from contract.environment import usual_cache_dir
from trainables.device.process_setup import prepare_processor
from trainables.synthesis.copies import CopyFinder, shrink
from trainables.synthesis.epochs import UPDATES
from trainables.synthesis.features import Pixels, measure_features
from trainables.synthesis.judgement import judge
from trainables.synthesis.networks import Shape
from trainables.synthesis.quality import compare, describe_collapse, variety_of
from trainables.synthesis.train_images import Source, TrainImages, load_train_images
from trainables.synthesis.training import DiscriminatorKind, GanTraining

Random = np.random.Generator
Change = Callable[[Pixels, Random], NDArray[np.floating]]
"""Changes an image [S, S, 3]; what it returns is rounded and clipped to bytes."""

COPIED, LEFT_OUT = 120, 240
"""Images that are copied, and that the rule never sees, at most a quarter of all."""

MODES = (1, 2, 3, 5, 10, 20)
"""Different images that a class has collapsed to."""


def _blur(image: Pixels, _random: Random) -> NDArray[np.floating]:
    radius = image.shape[0] / 48
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64)


def _add_noise(image: Pixels, random: Random) -> NDArray[np.floating]:
    return image + random.normal(0, 12, image.shape)


def _change_contrast(image: Pixels, random: Random) -> NDArray[np.floating]:
    mean = image.mean()
    return (image - mean) * random.uniform(0.6, 1.4) + mean + random.uniform(-40, 40)


def _recolour(image: Pixels, random: Random) -> NDArray[np.floating]:
    grey = image.mean(axis=2, keepdims=True)
    return grey + (image - grey) * random.uniform(0, 2) + random.uniform(-40, 40, 3)


def _shift(image: Pixels, _random: Random) -> NDArray[np.floating]:
    return np.roll(image, max(1, round(image.shape[0] / 32)), axis=1).astype(np.float64)


CHANGES: Mapping[str, Change] = {
    "blurred": _blur,
    "noisy": _add_noise,
    "contrast": _change_contrast,
    "recoloured": _recolour,
    "mirrored": lambda image, _random: image[:, ::-1].astype(np.float64),
    "shifted": _shift,
}


def change(images: Pixels, how: Change, random: Random) -> Pixels:
    """Change images [N, S, S, 3] one by one."""
    changed = np.stack([how(np.ascontiguousarray(image), random) for image in images])
    pixels: Pixels = changed.round().clip(0, 255).astype(np.uint8)
    return pixels


def _vary(image: Pixels, random: Random) -> NDArray[np.floating]:
    """Change an image as the images of a collapsed generator differ: colour, contrast, and a little noise."""
    grey = image.mean(axis=2, keepdims=True)
    coloured = grey + (image - grey) * random.uniform(0.5, 1.5) + random.uniform(-20, 20, 3)
    mean = coloured.mean()
    return (coloured - mean) * random.uniform(0.8, 1.2) + mean + random.normal(0, 2, image.shape)


def rate_copies(images: TrainImages) -> dict[str, float]:
    """Shares of changed copies that are found with the image that they repeat, and of false alarms."""
    random = np.random.default_rng(0)
    order = random.permutation(len(images.labels))
    unseen = order[: min(LEFT_OUT, len(order) // 4)]
    seen = order[len(unseen) :]
    copied = random.choice(len(seen), min(COPIED, len(seen)), replace=False)
    finder = CopyFinder(images.pixels[seen], images.labels[seen])
    found = {}
    for name, how in CHANGES.items():
        copies = finder.find(change(images.pixels[seen[copied]], how, random))
        found[name] = sum(copied[one.generated] == one.real for one in copies) / len(copied)
    return {**found, "left out": len(finder.find(images.pixels[unseen])) / len(unseen)}


def rate_collapse(images: TrainImages) -> dict[str, float]:
    """Shares of classes for which the alarm goes off, by the number of images that come again and again."""
    random = np.random.default_rng(0)
    features = measure_features(images.pixels)
    alarms: dict[str, list[bool]] = {}
    for label in range(len(images.classes)):
        rows = random.permutation(np.flatnonzero(images.labels == label))
        half = len(rows) // 2
        other = rows[half : 2 * half]
        cases = {"other real": images.pixels[other]}
        for modes in MODES:
            if 2 * modes <= half:
                repeated = images.pixels[other[np.arange(half) % modes]]
                cases[f"{modes} repeated"] = change(repeated, _vary, random)
        pictures = shrink(images.pixels[rows[:half]])
        for name, made in cases.items():
            found = compare(features[rows[:half]], measure_features(made))
            variety = variety_of(pictures, shrink(made))
            alarms.setdefault(name, []).append(bool(describe_collapse(found, picture_variety=variety)))
    return {name: float(np.mean(found)) for name, found in alarms.items()}


def rate_discriminator(
    images: TrainImages, kind: DiscriminatorKind, *, seed: int, minutes: float
) -> dict[str, float]:
    """Train a GAN with a discriminator for so long, and measure what it makes."""
    seen = ~images.is_held
    size = images.pixels.shape[1]
    training = GanTraining(
        images.pixels[seen],
        images.labels[seen],
        shape=Shape(image_size=size, num_classes=len(images.classes), channels=images.channels),
        seed=seed,
        discriminator=kind,
    )
    began = time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        training.update()
    found = judge(training.average, images, measure_features(images.pixels), seed=seed)
    assert found.overall is not None
    return {
        "epochs": training.step / UPDATES,
        "precision": found.overall.precision,
        "coverage": found.overall.coverage,
        "variety": found.overall.variety,
        "own class": found.recognised_overall,
        "probe": found.probe.accuracy,
        "probe of real ones": found.probe.trained_on_real or float("nan"),
        "collapsed classes": len(found.collapsed) / len(images.classes),
    }


def list_cells(flags: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure what the flags ask for, a row of the table at a time."""
    for data in flags.data:
        name, _, size = data.rpartition(":")
        for seed in flags.seeds:
            source = Source(data=name, seed=seed, fit="crop", cache_dir=flags.cache_dir, cache_gb=20)
            images = load_train_images(source, image_size=int(size), console=None)
            title = f"{Path(name).name}, {size} px, seed {seed}"
            if flags.what == "copies":
                yield title, rate_copies(images)
            elif flags.what == "collapse":
                yield title, rate_collapse(images)
            else:
                for kind in get_args(DiscriminatorKind):
                    cell = rate_discriminator(images, kind, seed=seed, minutes=flags.minutes)
                    yield f"{title}, {kind}", cell


def print_table(rows: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Print a row for each data set and case, with a column for each figure."""
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    table = Table("images", *names, box=None, header_style="bold")
    for title, cells in rows.items():
        table.add_row(title, *(f"{cells[name]:.3f}" if name in cells else "–" for name in names))
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gan_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("copies", "collapse", "discriminators"))
    parser.add_argument("data", nargs="+", metavar="DATA:PX")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="(default: 0)")
    parser.add_argument(
        "--minutes", type=float, default=8, metavar="X", help="of a discriminator's training (default: 8)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--cache-dir", type=Path, default=usual_cache_dir(), metavar="DIR")
    flags = parser.parse_args(argv)
    prepare_processor(flags.threads)
    console = Console(highlight=False, markup=False, emoji=False, width=150)
    rows: dict[str, Any] = {}
    for title, cells in list_cells(flags):
        rows[title] = cells
        console.print(f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in cells.items()))
    print_table(rows, console)
    print(json.dumps({"benchmark": "gan_quality", "what": flags.what, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
