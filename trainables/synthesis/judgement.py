"""Judges a trained generator: each class and all together, a probe, and the lines and numbers of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from contract.files import printable
from trainables.synthesis.copies import shrink
from trainables.synthesis.features import Features, measure_features
from trainables.synthesis.networks import Generator
from trainables.synthesis.quality import (
    Labels,
    Measures,
    compare,
    describe_collapse,
    probe_accuracy,
    recognise,
    variety_of,
)
from trainables.synthesis.train_images import TrainImages
from trainables.synthesis.training import generate

MOST_JUDGED = 10_000
"""Most real images, at random, that a generator is judged by."""

FEWEST_TESTED = 20
"""Held-back images below which a probe is tested on the images that the GAN has seen."""

_COLUMNS = ("precision", "recall", "density", "coverage", "nearest", "variety")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear probe on frozen features, trained on generated images alone and tested on real ones."""

    accuracy: float
    trained_on_real: float | None
    """The same probe trained on as many real images; None where there are none left to test it on."""

    tested: int
    """Real images that it was tested on."""

    unseen: bool
    """Whether the GAN has never seen those."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """The quality of a generator, by as many generated images of each class as there are real ones."""

    overall: Measures | None
    unseen: Measures | None
    """Against the real images that the GAN has not seen; None where there are too few of them."""

    classes: tuple[Measures | None, ...]
    """Measures of every class; None where it has too few real images."""

    picture_varieties: tuple[float, ...]
    """`variety_of` each class's small grey pictures."""

    recognised: tuple[float, ...]
    """Share of each class's generated images that a probe trained on the real ones takes for that class."""

    recognised_overall: float
    probe: Probe

    @property
    def collapsed(self) -> dict[int, str]:
        """Why a class has collapsed, by the class."""
        number = len(self.classes)
        rows = zip(self.classes, self.picture_varieties, self.recognised, strict=True)
        found = {
            at: describe_collapse(
                measures, picture_variety=variety, recognised=recognised, num_classes=number
            )
            for at, (measures, variety, recognised) in enumerate(rows)
        }
        return {at: why for at, why in found.items() if why}


def judge(generator: Generator, images: TrainImages, features: Features, *, seed: int) -> Judgement:
    """Measure a generator against the real images, whose features are given, [N, D]."""
    rows = np.sort(np.random.default_rng(0).permutation(len(images.labels))[:MOST_JUDGED])
    labels, held, real = images.labels[rows], images.is_held[rows], features[rows]
    made = generate(generator, labels, seed=seed, purpose="judge")
    fake = measure_features(made, device=next(generator.parameters()).device.type)
    classes = [labels == label for label in range(len(images.classes))]
    pictures = shrink(images.pixels[rows]), shrink(made)
    is_recognised = recognise(real, labels, fake, labels)
    return Judgement(
        overall=compare(real, fake),
        unseen=compare(real[held], fake[held]),
        classes=tuple(compare(real[members], fake[members]) for members in classes),
        picture_varieties=tuple(variety_of(*(each[members] for each in pictures)) for members in classes),
        recognised=tuple(float(is_recognised[members].mean()) for members in classes),
        recognised_overall=float(is_recognised.mean()),
        probe=_probe(real, fake, labels, held),
    )


def _probe(real: Features, fake: Features, labels: Labels, held: NDArray[np.bool_]) -> Probe:
    if held.sum() < FEWEST_TESTED:
        accuracy = probe_accuracy(fake, labels, real, labels)
        return Probe(accuracy=accuracy, trained_on_real=None, tested=len(labels), unseen=False)
    tested = real[held], labels[held]
    return Probe(
        accuracy=probe_accuracy(fake[~held], labels[~held], *tested),
        trained_on_real=probe_accuracy(real[~held], labels[~held], *tested),
        tested=int(held.sum()),
        unseen=True,
    )


def quality_values(
    judgement: Judgement, images: TrainImages, copies: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The quality as the list of the folder keeps it: plain numbers and texts."""

    def values(measures: Measures | None) -> dict[str, float] | None:
        return None if measures is None else {name: round(v, 4) for name, v in asdict(measures).items()}

    return {
        "overall": values(judgement.overall),
        "unseen": values(judgement.unseen),
        "num_unseen": int(images.is_held.sum()),
        "recognised": round(judgement.recognised_overall, 4),
        "probe": asdict(judgement.probe),
        "classes": {
            name: {
                "real": int(count),
                "measures": values(measures),
                "picture_variety": round(judgement.picture_varieties[at], 4),
                "recognised": round(judgement.recognised[at], 4),
                "collapsed": judgement.collapsed.get(at, ""),
            }
            for at, (name, count, measures) in enumerate(
                zip(images.classes, images.counts, judgement.classes, strict=True)
            )
        },
        "copies": list(copies),
    }


def make_quality_table(judgement: Judgement, images: TrainImages) -> Table:
    """A row for each class, for all images, and for those that the GAN has not seen."""
    table = Table("images", "real", *_COLUMNS, "own class", "alarm", box=None, header_style="bold")
    table.padding = (0, 1, 0, 0)
    rows = [
        *zip(images.classes, images.counts.tolist(), judgement.classes, judgement.recognised, strict=True),
        ("all", len(images.labels), judgement.overall, judgement.recognised_overall),
    ]
    for at, (name, count, measures, recognised) in enumerate(rows):
        alarm = "yes" if at in judgement.collapsed else ""
        table.add_row(printable(name), f"{count:,}", *_numbers(measures), f"{recognised:.2f}", alarm)
    if judgement.unseen:
        table.add_row("unseen", f"{int(images.is_held.sum()):,}", *_numbers(judgement.unseen), "", "")
    for column in table.columns[1:-1]:
        column.justify = "right"
    return table


def _numbers(measures: Measures | None) -> list[str]:
    return [f"{getattr(measures, name):.2f}" if measures else "–" for name in _COLUMNS]


def describe_probe(probe: Probe) -> str:
    """Say in a line how far a probe gets with generated images alone."""
    whose = (
        "real images that the GAN has not seen" if probe.unseen else "real images that the GAN learned from"
    )
    share = f"{probe.accuracy:.0%} of {probe.tested:,} {whose}"
    line = f"a probe trained on generated images alone is right for {share}"
    if probe.trained_on_real is None:
        return f"{line}, which flatters it: no class can spare images to test on"
    return f"{line}; trained on as many real ones for {probe.trained_on_real:.0%}"


def describe_collapses(judgement: Judgement, classes: Sequence[str]) -> list[str]:
    """A line for each class that has collapsed."""
    return [f"COLLAPSED: {printable(classes[at])!r}: {why}" for at, why in judgement.collapsed.items()]


def advise(images: TrainImages, asked: Sequence[int]) -> str:
    """What to do where everything asked for has collapsed."""
    fewest = int(np.min(images.counts[list(asked)]))
    return (
        "nothing was written. Train longer (--epochs), at a smaller --image-size, or with another --seed; a"
        f" class of {fewest} images may be too small for a GAN. Over-sampling, class weights and mixing need"
        " no generator. --keep-collapsed writes the images all the same"
    )
