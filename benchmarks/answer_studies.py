"""What the ways of making an answer bring on photos: real studies, each way scored on the test split.

    python -m benchmarks answer_studies --data PHOTOS [PHOTOS ...] --seeds 5 --out DIR

For every set and seed one search runs as a user starts it, and after it the final trainings of the best
single trial. A second run goes on where the first was ended. All ways are scored on the test images at once,
from the predictions of their members, so that no reading is recorded. The last line printed is one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.answer.record import Answer
from analysis.comparison import confidence_interval
from analysis.image_table import load_groups
from analysis.predictions import Array, Predictions
from cluster.study.reopening import config_of_study, reopen_study
from contract.answer import Combination, MemberRef, apply_temperature, pool_log_probabilities
from finalize import Opened, open_settings, predict_views, train
from trainables.export.latency import CombinationCosts
from trainables.export.split_predictions import SplitPredictions, predict_members
from wiring.answers import AnswerMaker, Wishes

SINGLE = Wishes(rule="single")
WAYS: dict[str, tuple[Wishes, bool]] = {
    "best single": (SINGLE, False),
    "prefix ensemble": (Wishes(rule="prefix_ensemble"), False),
    "any ensemble": (Wishes(rule="ensemble"), False),
    "default (auto)": (Wishes(), False),
    "single, views": (Wishes(rule="single", views=2), False),
    "auto, views": (Wishes(views=2), False),
    "single, refit": (Wishes(rule="single", refit=True), False),
    "single, seeds": (SINGLE, True),
    "auto, seeds and views": (Wishes(views=2), True),
}
"""Ways by name: what is wished, and whether repetitions with other seeds are candidates."""

TRAINED = ("single, views", "auto, views", "single, refit", "single, seeds", "auto, seeds and views")
"""Ways that something has to be computed for first."""

NUM_SEEDS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", nargs="+", required=True, metavar="PHOTOS")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--trials", type=int, default=12, metavar="N")
    parser.add_argument("--max-epochs", type=int, default=5, metavar="N")
    parser.add_argument("--image-size", type=int, default=96, metavar="PX")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY", help="[all]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="studies, cache and figures")
    flags = parser.parse_args()
    out = flags.out.absolute()
    rows: list[dict[str, Any]] = []
    for seed in range(flags.seeds):
        for data in flags.data:
            name = f"{Path(data).name}-{seed}"
            found = out / "figures" / f"{name}.json"
            if not found.exists():
                search(data, name, seed=seed, flags=flags, out=out)
                found.parent.mkdir(parents=True, exist_ok=True)
                figures = measure(out / "runs" / name, ways=flags.ways)
                about = {"set": Path(data).name, "seed": seed}
                found.write_text(json.dumps([about | one for one in figures]), encoding="utf-8")
            rows += json.loads(found.read_text(encoding="utf-8"))
            print(f"{name}: done", flush=True)
    print_tables(rows)
    print(json.dumps(summarise(rows)))
    return 0


def search(data: str, name: str, *, seed: int, flags: argparse.Namespace, out: Path) -> None:
    """Run one search to its end."""
    command = [sys.executable, "tune.py", "--space", "demo", "--data", data, "--study", name]
    command += ["--runs-dir", str(out / "runs"), "--cache-dir", str(out / "cache"), "--seed", str(seed)]
    command += ["--trials", str(flags.trials), "--max-epochs", str(flags.max_epochs)]
    command += ["--image-size", str(flags.image_size)]
    root = Path(__file__).parents[1]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(directory: Path, *, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Train the repetitions that the ways need, and score every way on the test images."""
    config = config_of_study(directory)
    study = reopen_study(config)
    try:
        opened = open_settings(study, config)
        seconds = {"search": sum(t["seconds"] for t in study.info.get("runs", []) if "seconds" in t)}
        if set(ways) & set(TRAINED):
            began = time.perf_counter()
            train(opened, SINGLE, seeds=NUM_SEEDS)
            seconds["seeds"] = time.perf_counter() - began
            began = time.perf_counter()
            train(opened, SINGLE, refit=True)
            seconds["refit"] = time.perf_counter() - began
            began = time.perf_counter()
            predict_views(opened)
            seconds["views"] = time.perf_counter() - began
        return score_ways(opened, seconds, ways=ways)
    finally:
        study.close()


def score_ways(opened: Opened, seconds: Mapping[str, float], *, ways: Sequence[str]) -> list[dict[str, Any]]:
    answers: dict[str, tuple[AnswerMaker, Answer, float]] = {}
    for name in ways:
        wishes, has_seeds = WAYS[name]
        maker = opened.maker(wishes)
        if not has_seeds:
            maker = replace(maker, finals=[one for one in maker.finals if one.training.kind == "refit"])
        began = time.perf_counter()
        try:
            answer = maker.choose()
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        answers[name] = maker, answer, time.perf_counter() - began
    refs = sorted({ref for _, answer, _ in answers.values() for ref in answer.refs})
    maker = opened.maker(Wishes(views=2))
    tested = predict_members(refs, maker.configs, opened.settings, "test")
    costs = CombinationCosts(settings=opened.settings)
    groups = load_groups(opened.study.directory)
    figures = []
    for name, (_, answer, spent) in answers.items():
        scores = score_on_test(answer.combination, tested, groups)
        figures.append(
            {
                "way": name,
                "rule": answer.rule,
                "members": len(answer.refs),
                "milliseconds": costs.milliseconds(answer.combination, maker.configs),
                "seconds_to_choose": spent,
                "seconds": dict(seconds),
                "rules": list(answer.rules),
                "corrected": {metric: dict(score) for metric, score in answer.scores.items()},
                "images": answer.images,
                **scores,
            }
        )
    return figures


def score_on_test(
    combination: Combination, tested: Mapping[MemberRef, SplitPredictions], groups: Array | None
) -> dict[str, Any]:
    """Accuracy and log-loss of a combination on the test images, with the temperature and without."""
    stacked = np.stack([tested[one.ref].log_probabilities for one in combination.members])
    weights = [one.weight for one in combination.members]
    first = tested[combination.members[0].ref]
    pooled = pool_log_probabilities(stacked, weights, combination.pooling)
    calibrated = apply_temperature(pooled, combination.temperature)
    of = None if groups is None else groups[first.ids]
    predictions = Predictions(first.ids, first.labels, calibrated.astype(np.float32), of)
    accuracy = confidence_interval(predictions, metric="val_accuracy")
    assert accuracy is not None
    rows = np.arange(len(first.labels))
    return {
        "test_images": len(rows),
        "test_accuracy": accuracy[0],
        "test_accuracy_low": accuracy[1],
        "test_accuracy_high": accuracy[2],
        "test_loss": float(-calibrated[rows, first.labels].mean()),
        "test_loss_uncalibrated": float(-pooled[rows, first.labels].mean()),
    }


def holds_reading(row: Mapping[str, Any]) -> bool:
    """True if the corrected interval, widened by the reading's own standard error, holds the reading."""
    score, read = row["corrected"]["val_accuracy"], row["test_accuracy"]
    error = (row["test_accuracy_high"] - row["test_accuracy_low"]) / (2 * 1.96)
    middle = score["corrected"]
    low = middle - np.hypot(middle - score["low"], 1.96 * error)
    high = middle + np.hypot(score["high"] - middle, 1.96 * error)
    return bool(low <= read <= high)


def by_way(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row["way"]].append(row)
    return found


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over sets and seeds, differences from the best single one, and how often the interval holds."""
    ways = by_way(rows)
    base = {(row["set"], row["seed"]): row for row in ways["best single"]}
    found = {}
    for name, own in ways.items():
        gains = [row["test_accuracy"] - base[row["set"], row["seed"]]["test_accuracy"] for row in own]
        losses = [row["test_loss"] - base[row["set"], row["seed"]]["test_loss"] for row in own]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        loss_error = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
        optimism = [row["corrected"]["val_accuracy"]["as_chosen"] - row["test_accuracy"] for row in own]
        left = [row["corrected"]["val_accuracy"]["corrected"] - row["test_accuracy"] for row in own]
        found[name] = {
            "studies": len(own),
            "accuracy": statistics.mean(row["test_accuracy"] for row in own),
            "accuracy_gain": statistics.mean(gains),
            "accuracy_gain_error": error,
            "loss": statistics.mean(row["test_loss"] for row in own),
            "loss_gain": -statistics.mean(losses),
            "loss_gain_error": loss_error,
            "members": statistics.mean(row["members"] for row in own),
            "milliseconds": statistics.median(row["milliseconds"] for row in own),
            "as_chosen_minus_test": statistics.mean(optimism),
            "corrected_minus_test": statistics.mean(left),
            "held": sum(holds_reading(row) for row in own),
        }
    return found


def print_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=160)
    table = Table(title="means over all sets and seeds; gains over the best single one, ± standard error")
    for head in ("way", "test accuracy", "gain, points", "log-loss", "gain, nats", "members", "ms an image"):
        table.add_column(head)
    for head in ("as chosen − test", "corrected − test", "interval holds test"):
        table.add_column(head)
    for name, one in summarise(rows).items():
        table.add_row(
            name,
            f"{100 * one['accuracy']:.2f}%",
            f"{100 * one['accuracy_gain']:+.2f} ± {100 * one['accuracy_gain_error']:.2f}",
            f"{one['loss']:.4f}",
            f"{one['loss_gain']:+.4f} ± {one['loss_gain_error']:.4f}",
            f"{one['members']:.1f}",
            f"{one['milliseconds']:.1f}",
            f"{100 * one['as_chosen_minus_test']:+.2f}",
            f"{100 * one['corrected_minus_test']:+.2f}",
            f"{one['held']} of {one['studies']}",
        )
    console.print(table)
    by_set = Table(title="test accuracy (log-loss) by set, means over the seeds")
    sets = list(dict.fromkeys(row["set"] for row in rows))
    for head in ("way", *sets):
        by_set.add_column(head)
    for name, own in by_way(rows).items():
        cells = []
        for wanted in sets:
            part = [row for row in own if row["set"] == wanted]
            accuracy = statistics.mean(row["test_accuracy"] for row in part)
            loss = statistics.mean(row["test_loss"] for row in part)
            cells.append(f"{100 * accuracy:.2f}% ({loss:.3f})")
        by_set.add_row(name, *cells)
    console.print(by_set)


if __name__ == "__main__":
    sys.exit(main())
