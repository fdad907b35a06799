"""Which score finds unknown classes: each class of real photo sets hidden in turn, and photos of other sets.

    UNFREEZE_DATA=… python -m benchmarks unknown_class --sets flowers5 beans --seeds 3

A fifth of each set's groups validates, the rest trains a linear probe on frozen features (the split differs
from seed to seed). "Hidden" is the mean AUROC over the classes hidden in turn, and the lowest; "foreign" is
the AUROC against photos of the other sets, which are another thing altogether; "missed" is the share of these
taken for a known class at the threshold that keeps 95 %. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from analysis.calibration.probe import Sums, deal_groups, fit_probe, unit_length
from analysis.calibration.temperature import fit_temperature
from analysis.calibration.unknown import (
    FrozenFeatures,
    choose_score,
    hide_classes,
    predict_by_probe,
)
from analysis.calibration.unknown_scores import (
    Scale,
    Score,
    add_scores,
    auroc_of,
    fit_distances,
    keep,
)
from benchmarks.planted.measure import join_copies
from benchmarks.planted.plant import find_photos
from contract.answer import apply_temperature
from contract.unknown_score import score_probabilities
from trainables.checks.features import compute_features
from trainables.checks.near_copies import find_near_copies
from trainables.data.views import storage_size
from trainables.images.store import open_or_build

SETS = ("flowers5", "beans", "rsscn7_aerial", "grocery_fruit", "magnetic_tile")
PARTS = 5
FOREIGN = 1000
"""Most photos of other sets, in equal shares."""

PhotoSet = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], list[str]]
"""Features, labels, groups and classes."""


def load_set(folder: Path, *, image_size: int, cache_dir: Path) -> PhotoSet:
    """Read a set's photos, whose near copies share a group, as features of the frozen lite0."""
    photos = find_photos(folder)
    paths = [path for _, path in photos]
    store = open_or_build(
        paths, storage_size=storage_size(image_size, "crop"), fit="crop", cache_dir=cache_dir
    )
    rows = np.flatnonzero(store.readable)
    classes, labels = np.unique([name for name, _ in photos], return_inverse=True)
    copies = find_near_copies(store.images, rows)
    groups = join_copies(len(photos), [(copy.first, copy.second) for copy in copies], store.digests)
    features = compute_features(store.images, rows, image_size=image_size, fit="crop")
    return features, labels[rows].astype(np.int64), groups[rows], [str(name) for name in classes]


def measure_set(photos: PhotoSet, foreign: NDArray[np.float32], *, seed: int) -> dict[str, Any]:
    """Measure every score on one split of a set."""
    features, labels, groups, classes = photos
    is_val = deal_groups(labels, groups, parts=PARTS, seed=seed) == 0
    frozen = FrozenFeatures(
        train=features[~is_val],
        train_labels=labels[~is_val],
        train_groups=groups[~is_val],
        val=features[is_val],
        val_labels=labels[is_val],
        val_groups=groups[is_val],
    )
    began = time.perf_counter()
    hidden, _ = hide_classes(frozen, classes=classes, seed=seed)
    seconds = time.perf_counter() - began
    results: dict[str, Any] = {"chosen": choose_score(hidden, tuple(Score)).value, "seconds": seconds}
    for score, (known, strangers) in score_foreign(frozen, foreign, len(classes)).items():
        aurocs = [one.auroc[score] for one in hidden]
        worst = hidden[int(np.argmin(aurocs))]
        results[score.value] = {
            "hidden": float(np.mean(aurocs)),
            "worst": worst.auroc[score],
            "worst_class": worst.name,
            "hidden_missed": float(np.mean([one.missed[score] for one in hidden])),
            "foreign": auroc_of(known, strangers),
            "foreign_missed": float((strangers >= keep(known)).mean()),
        }
    return results


def score_foreign(
    frozen: FrozenFeatures, foreign: NDArray[np.float32], num_classes: int
) -> dict[Score, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Score the validation photos and foreign ones by all classes' training photos."""
    train, known, strangers = (unit_length(one) for one in (frozen.train, frozen.val, foreign))
    probe = fit_probe(Sums.of(train, frozen.train_labels, num_classes=num_classes))
    predicted = [predict_by_probe(probe, one) for one in (known, strangers)]
    temperature = fit_temperature(predicted[0], frozen.val_labels)
    calibrated = [apply_temperature(one, temperature) for one in predicted]
    distances = fit_distances(train, frozen.train_labels, num_classes)
    values = {
        score: [score_probabilities(one, score) for one in calibrated]
        for score in (Score.PROBABILITY, Score.ENTROPY)
    }
    values[Score.DISTANCE] = [distances.score(known), distances.score(strangers)]
    entropy, distance = values[Score.ENTROPY], values[Score.DISTANCE]
    scales = Scale.of(entropy[0]), Scale.of(distance[0])
    values[Score.BOTH] = [add_scores(*pair, scales) for pair in zip(entropy, distance, strict=True)]
    return {score: (values[score][0], values[score][1]) for score in Score}


def _make_table(results: list[dict[str, Any]]) -> Table:
    """One row a set: mean over the seeds of each score."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("set")
    for score in Score:
        table.add_column(f"{score.value}: hidden (worst) missed, foreign missed")
    table.add_column("chosen")
    table.add_column("seconds")
    for name in dict.fromkeys(one["set"] for one in results):
        own = [one for one in results if one["set"] == name]
        cells = []
        for score in Score:
            figures = {
                key: float(np.mean([one[score.value][key] for one in own]))
                for key in ("hidden", "worst", "hidden_missed", "foreign", "foreign_missed")
            }
            cells.append(
                f"{figures['hidden']:.2f} ({figures['worst']:.2f}) {figures['hidden_missed']:.0%}, "
                f"{figures['foreign']:.2f} {figures['foreign_missed']:.0%}"
            )
        chosen = ", ".join(one["chosen"] for one in own)
        table.add_row(name, *cells, chosen, f"{np.mean([one['seconds'] for one in own]):.1f}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = os.environ.get("UNFREEZE_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--image-size", type=int, default=128, metavar="PX")
    flags = parser.parse_args()
    missing = [name for name in flags.sets if not (flags.data / name).is_dir()]
    if missing or len(flags.sets) < 2:
        what = f"{flags.data} has no {', '.join(missing)}" if missing else "--sets: two are needed"
        print(f"error: {what}: pass --data or UNFREEZE_DATA", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as cache:
        photos = {
            name: load_set(flags.data / name, image_size=flags.image_size, cache_dir=Path(cache))
            for name in flags.sets
        }
    results = []
    for name in flags.sets:
        others = [photos[other][0] for other in flags.sets if other != name]
        each = FOREIGN // len(others)
        foreign = np.concatenate([one[:: max(1, len(one) // each)][:each] for one in others])
        for seed in range(flags.seeds):
            results.append({"set": name, "seed": seed, **measure_set(photos[name], foreign, seed=seed)})
    Console(width=240).print(_make_table(results))
    print(json.dumps({"unknown_class": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
