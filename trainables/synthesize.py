"""Trains a small class-conditional GAN on a data set's train split, and writes the images that it makes."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from rich.console import Console

from contract.decoding import Fit
from contract.durations import parse_duration
from contract.environment import expand, usual_cache_dir
from contract.files import file_lock, plural, printable, save_json
from contract.project_version import own_version
from contract.stop_signals import stopping_like_ctrl_c
from contract.synthetic_images import DIGEST_LENGTH, SyntheticClass, SyntheticImages
from trainables.device.process_setup import prepare_processor
from trainables.synthesis.copies import CopyFinder
from trainables.synthesis.epochs import GanRun, Limits, Watched, choose_watched
from trainables.synthesis.features import Features, measure_features
from trainables.synthesis.judgement import (
    Judgement,
    advise,
    describe_collapses,
    describe_probe,
    judge,
    make_quality_table,
    quality_values,
)
from trainables.synthesis.networks import Generator, Shape
from trainables.synthesis.output import OutputFolder, draw_images, name_folders
from trainables.synthesis.pretrained import SMALLEST_SIDE
from trainables.synthesis.sheet import MADE, MOST_CLASSES, draw_sheet, pick_real
from trainables.synthesis.train_images import Source, TrainImages, choose_classes, load_train_images
from trainables.synthesis.training import DiscriminatorKind, GanTraining, TrainingDiverged, generate

FORMAT = 2
"""Raise it when the same settings would train other weights: saved trainings no longer go on."""

GENERATOR = "conditional GAN"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes are 0 done, 1 nothing worth writing, 2 wrong flags or data."""
    flags = _make_parser().parse_args(argv)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    try:
        with stopping_like_ctrl_c():
            return _run(flags, console)
    except (ValueError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the training is kept, so that the same command goes on", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables synthesize",
        description="Train a small class-conditional GAN on the train split, measure what it makes, and "
        "write images that tune.py --synthetic adds to the train split. Run the same command again to go on.",
    )
    cache = usual_cache_dir()
    add = parser.add_argument
    add("--data", required=True, metavar="NAME|PATH", help="as for tune.py")
    add("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    add(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="make images of these classes, or of 'rare' ones: those with fewer train images than half of "
        "the median class (default: all); the GAN learns from all classes in any case",
    )
    add("--images", type=_positive, default=500, metavar="N", help="images a class (default: 500)")
    add("--image-size", type=int, default=64, metavar="PX", help="32, 64 or 128 (default: 64)")
    add("--epochs", type=_positive, default=36, metavar="N", help="of 250 updates each (default: 36)")
    add(
        "--patience",
        type=_count,
        default=12,
        metavar="N",
        help="epochs without progress; 0 = all (default: 12)",
    )
    add("--time-budget", metavar="TIME", help="train no longer than about this: 2h, 90m (default: no limit)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the split, as for tune.py, and all else (default: 0)",
    )
    add("--study", type=Path, metavar="DIR", help="take the split of this study, as runs/NAME")
    add("--fit", choices=get_args(Fit), default="crop", help="as for tune.py (default: crop)")
    add(
        "--discriminator",
        choices=("auto", *get_args(DiscriminatorKind)),
        default="auto",
        help="what it sees: pixels, or also the maps of a pretrained network, of which an epoch takes twice "
        "as long (default: auto, pretrained from 64 px on)",
    )
    add("--mirror", action="store_true", help="mirrored images are as good: photos, but not letters")
    add("--keep-copies", action="store_true", help="write images that repeat a real one, too")
    add("--keep-collapsed", action="store_true", help="write images of classes that have collapsed, too")
    add("--group-by", metavar="WHAT", help="as for tune.py")
    add("--min-images", type=_positive, metavar="N", help="as for tune.py")
    add("--corrections", type=Path, metavar="FILE", help="as for tune.py")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: a GPU if there is one)")
    add("--cache-dir", type=Path, default=cache, metavar="DIR", help=f"(default: {cache})")
    add("--cache-gb", type=float, default=20.0, metavar="X", help="most disk of the cache (default: 20)")
    return parser


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {value!r}")
    return int(value)


def _count(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, got {value!r}")
    return int(value)


def _run(flags: argparse.Namespace, console: Console) -> int:
    limits = Limits(
        epochs=flags.epochs,
        patience=flags.patience,
        seconds=parse_duration(flags.time_budget) if flags.time_budget else None,
    )
    device = _choose_device(flags.device)
    Shape(image_size=flags.image_size, num_classes=1)  # for its check, before images are read
    output = OutputFolder(expand(flags.out))
    if Path(flags.data).is_dir() and output.folder.is_relative_to(expand(flags.data)):
        raise ValueError(
            f"--out {flags.out} lies in the data, which would contain it: pass a folder elsewhere"
        )
    prepare_processor(torch.get_num_threads())
    images = load_train_images(
        _source(flags), image_size=flags.image_size, console=console if console.is_terminal else None
    )
    asked = choose_classes(flags.classes, images.classes, images.counts)
    try:
        with file_lock(output.lock, timeout_seconds=0):
            return _train_and_write(flags, images, asked, output, limits=limits, device=device)
    except BlockingIOError:
        raise ValueError(
            f"another process is writing {flags.out}: wait for it, or pass another --out"
        ) from None


def _choose_device(asked: str) -> str:
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ValueError("--device cuda: torch finds no GPU here; pass --device cpu")
    return "cuda" if there and asked != "cpu" else "cpu"


def _choose_discriminator(asked: str, shape: Shape) -> DiscriminatorKind:
    if asked != "auto":
        return cast("DiscriminatorKind", asked)
    return "pretrained" if shape.image_size >= SMALLEST_SIDE else "pixels"


def _source(flags: argparse.Namespace) -> Source:
    return Source(
        data=flags.data,
        seed=flags.seed,
        fit=flags.fit,
        cache_dir=expand(flags.cache_dir),
        cache_gb=flags.cache_gb,
        group_by=flags.group_by,
        min_images=flags.min_images,
        corrections=expand(flags.corrections) if flags.corrections else None,
        study=expand(flags.study) if flags.study else None,
    )


def _say(line: str) -> None:
    print(printable(line), flush=True)


def _train_and_write(
    flags: argparse.Namespace,
    images: TrainImages,
    asked: Sequence[int],
    output: OutputFolder,
    *,
    limits: Limits,
    device: str,
) -> int:
    shape = Shape(image_size=flags.image_size, num_classes=len(images.classes), channels=images.channels)
    _check_same_training(output, _settings(flags, images, shape))
    seen = ~images.is_held
    _say(
        f"{plural(int(seen.sum()), 'train image')} of {len(images.classes)} classes to learn from, "
        f"{int(images.is_held.sum())} held back to judge by"
    )
    features = measure_features(images.pixels, device=device)
    generator = _train(flags, images, features, asked, output, shape=shape, limits=limits, device=device)
    judgement = judge(generator, images, features, seed=flags.seed)
    Console(highlight=False, markup=False, emoji=False).print(make_quality_table(judgement, images))
    for line in (describe_probe(judgement.probe), *describe_collapses(judgement, images.classes)):
        _say(line)
    good = [label for label in asked if flags.keep_collapsed or label not in judgement.collapsed]
    if not good:
        print(advise(images, asked), file=sys.stderr)
        return 1
    _write(flags, images, good, output, generator, judgement)
    return 0


def _settings(flags: argparse.Namespace, images: TrainImages, shape: Shape) -> dict[str, Any]:
    """Everything that the weights depend on: a training only goes on with the same."""
    content = "\n".join((*images.digests, *map(str, images.labels), *map(str, images.is_held)))
    return {
        "format": FORMAT,
        "images": hashlib.sha256(content.encode()).hexdigest()[:DIGEST_LENGTH],
        "classes": list(images.classes),
        "image_size": shape.image_size,
        "channels": shape.channels,
        "fit": flags.fit,
        "discriminator": _choose_discriminator(flags.discriminator, shape),
        "mirror": flags.mirror,
        "seed": flags.seed,
    }


def _check_same_training(output: OutputFolder, settings: dict[str, Any]) -> None:
    """Keep the settings of a new training, or compare them with those of the one that is there.

    Raises:
        ValueError: they differ.
    """
    try:
        before = json.loads(output.settings.read_text(encoding="utf-8"))
    except FileNotFoundError:
        save_json(output.settings, settings)
        return
    changed = [name for name, value in settings.items() if before.get(name) != value]
    if changed:
        raise ValueError(
            f"{output.folder} holds a GAN that was trained with other settings or images "
            f"({', '.join(changed)} changed): pass another --out, or remove that folder"
        )


def _train(
    flags: argparse.Namespace,
    images: TrainImages,
    features: Features,
    asked: Sequence[int],
    output: OutputFolder,
    *,
    shape: Shape,
    limits: Limits,
    device: str,
) -> Generator:
    seen = ~images.is_held
    training = GanTraining(
        images.pixels[seen],
        images.labels[seen],
        shape=shape,
        seed=flags.seed,
        discriminator=_choose_discriminator(flags.discriminator, shape),
        mirror=flags.mirror,
        device=device,
    )
    rows = choose_watched(images.labels, images.is_held)
    drawn = list(asked[:MOST_CLASSES])
    real = images.pixels[pick_real(images.labels, drawn)]
    names = [images.classes[label] for label in drawn]

    def write_sheet(epoch: int, generator: Generator) -> None:
        labels = np.repeat(np.array(drawn, dtype=np.int64), MADE)
        made = generate(generator, labels, seed=flags.seed, purpose="sheet")
        output.write_sheet(draw_sheet(names, real, made.reshape(len(drawn), MADE, *made.shape[1:])), epoch)

    run = GanRun(
        training,
        output.checkpoint,
        Watched(features=features[rows], labels=images.labels[rows]),
        on_epoch=write_sheet,
        say=_say,
    )
    reason = run.run(limits)
    _say(f"training ends: {reason}; the generator of epoch {run.progress.best_epoch} is used")
    return run.best_generator()


def _write(
    flags: argparse.Namespace,
    images: TrainImages,
    labels: Sequence[int],
    output: OutputFolder,
    generator: Generator,
    judgement: Judgement,
) -> None:
    finder = None if flags.keep_copies else CopyFinder(images.pixels, images.labels)
    folders = name_folders(images.classes)
    output.begin()
    rows, named = [], []
    for label in labels:
        made, repeated, copies = draw_images(
            generator, label, number=flags.images, seed=flags.seed, finder=finder
        )
        output.write_class(folders[label], made)
        output.write_copies(folders[label], repeated)
        rows.append(SyntheticClass(name=images.classes[label], folder=folders[label], images=len(made)))
        named += [
            {
                "class": images.classes[label],
                "image": f"{number:05d}.png",
                "real": str(images.paths[copy.real]),
            }
            for number, copy in enumerate(copies)
        ]
        left_out = f", {plural(len(copies), 'copy')} of real ones left out" if copies else ""
        _say(f"{printable(images.classes[label])}: {plural(len(made), 'image')}{left_out}")
    if named:
        _say(f"the copies are in {output.copies}, and the list names the real image of each")
    SyntheticImages(
        source=images.source,
        fingerprint=images.fingerprint,
        split_seed=flags.seed,
        image_size=flags.image_size,
        generator=GENERATOR,
        seed=flags.seed,
        classes=tuple(rows),
        quality=quality_values(judgement, images, named),
        train_digests=images.seen_digests,
        created_with=own_version(),
    ).save(output.folder)
    total = plural(sum(row.images for row in rows), "image")
    _say(f"{total} in {output.folder}; try tune.py --synthetic {flags.out}")
