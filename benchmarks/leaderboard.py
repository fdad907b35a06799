"""Leaderboard and report of a large synthetic study, in seconds.

    python -m benchmarks leaderboard --trials 10000 --epochs 30

The last line printed is one line of JSON: `leaderboard_s` and `report_s` with the start of a bare Python
process taken off, and `report_mb`.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contract.messages import EpochDecision, Outcome, Reason
from contract.sqlite_files import sqlite_url
from contract.study_layout import StudyPaths, StudyStatus

STARTED = 1_760_000_000.0
BACKBONES = ("lite0", "lite1", "lite2", "resnet50", "convnext_tiny")
REGIMES = ("finetune", "linear_probe", "two_phase")
CLASSES = tuple(f"class {number}" for number in range(20))
CREATE_EPOCHS = """CREATE TABLE epochs (
    study_id INTEGER NOT NULL, trial INTEGER NOT NULL, epoch INTEGER NOT NULL, attempt INTEGER NOT NULL,
    metrics TEXT NOT NULL, arrival FLOAT NOT NULL, decision VARCHAR(16) NOT NULL,
    PRIMARY KEY (study_id, trial, epoch))"""


def make_synthetic_study(directory: Path, *, trials: int, epochs: int, seed: int = 0) -> Path:
    """Write a study in which every trial ran all its epochs, and one in fifty failed at the end.

    Bulk SQL writes it, because Optuna's storage would write every trial on its own.
    """
    import optuna

    directory.mkdir(parents=True)
    paths = StudyPaths(directory)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(sqlite_url(paths.database))
    optuna.create_study(storage=storage, study_name=directory.name, direction="maximize")
    storage.engine.dispose()
    generator = random.Random(seed)
    with sqlite3.connect(paths.database) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.execute(CREATE_EPOCHS)
        for number in range(trials):
            _write_trial(database, number, epochs=epochs, generator=generator)
    database.close()
    facts = _study_facts(directory, trials=trials, epochs=epochs)
    paths.facts.write_text(json.dumps(facts), encoding="utf-8")
    return directory


def _write_trial(database: sqlite3.Connection, number: int, *, epochs: int, generator: random.Random) -> None:
    config = _draw_config(generator, epochs=epochs)
    failed = number % 50 == 49
    curve = list(_draw_curve(config, generator, epochs=epochs))
    started = STARTED + 10.0 * number
    outcome = Outcome.FAILED if failed else Outcome.COMPLETE
    trial_id = number + 1
    database.execute(
        "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
        "VALUES (?, ?, 1, ?, ?, ?)",
        (trial_id, number, "FAIL" if failed else "COMPLETE", _moment(started), _moment(started + 40.0)),
    )
    attributes = {"config": config, "outcome": outcome, "attempts": 1, "seconds": 40.0}
    attributes |= {"worker": f"node{number % 4}:1"} | ({"reason": Reason.DIVERGED} if failed else {})
    rows = [(trial_id, name, json.dumps(value)) for name, value in attributes.items()]
    database.executemany(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", rows
    )
    database.executemany(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
        [(trial_id, *row) for row in _parameters(config)],
    )
    if not failed:
        database.execute(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')",
            (trial_id, max(curve)),
        )
    database.executemany(
        "INSERT INTO epochs VALUES (1, ?, ?, 1, ?, ?, ?)",
        [
            (
                number,
                epoch,
                json.dumps(fake_metrics(accuracy, epoch=epoch)),
                started + 1.3 * epoch,
                EpochDecision.CONTINUE.value,
            )
            for epoch, accuracy in enumerate(curve, start=1)
        ],
    )


def _draw_config(generator: random.Random, *, epochs: int) -> dict[str, Any]:
    return {
        "max_epochs": epochs,
        "backbone": generator.choice(BACKBONES),
        "regime": generator.choice(REGIMES),
        "unfreeze_depth": generator.randrange(5),
        "batch_size": generator.choice((16, 32, 64)),
        "learning_rate": 10 ** generator.uniform(-5, -2),
        "dropout": generator.uniform(0, 0.5),
        "head_width": generator.choice((0, 128, 512)),
        "policy": generator.choice(("none", "light", "medium")),
        "optimizer": "adamw",
        "weight_decay": 10 ** generator.uniform(-6, -2),
        "label_smoothing": generator.uniform(0, 0.2),
        "schedule": "cosine",
    }


def _draw_curve(config: dict[str, Any], generator: random.Random, *, epochs: int) -> Iterator[float]:
    """Yield the accuracy after each epoch: it depends on depth and backbone, the rest is noise."""
    top = 0.6 + 0.05 * config["unfreeze_depth"] + 0.02 * BACKBONES.index(config["backbone"])
    top += generator.gauss(0, 0.03)
    return (min(0.999, top * (1 - 0.5 / epoch) + generator.gauss(0, 0.005)) for epoch in range(1, epochs + 1))


def _parameters(config: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

    distributions: dict[str, Any] = {
        "backbone": CategoricalDistribution(BACKBONES),
        "regime": CategoricalDistribution(REGIMES),
        "unfreeze_depth": CategoricalDistribution(tuple(range(5))),
        "batch_size": CategoricalDistribution((16, 32, 64)),
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "dropout": FloatDistribution(0, 0.5),
        "head_width": CategoricalDistribution((0, 128, 512)),
        "policy": CategoricalDistribution(("none", "light", "medium")),
        "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
        "label_smoothing": FloatDistribution(0, 0.2),
    }
    for name, distribution in distributions.items():
        yield name, distribution.to_internal_repr(config[name]), distribution_to_json(distribution)


def fake_metrics(accuracy: float, *, epoch: int) -> dict[str, float]:
    """Make an epoch's report around a validation accuracy; a NaN makes the losses NaN, too."""
    return {
        "train_loss": 1.1 * (1 - accuracy),
        "train_accuracy": accuracy * 0.9,
        "train_top3_accuracy": 0.95,
        "val_loss": 1.3 * (1 - accuracy),
        "val_accuracy": accuracy,
        "val_top3_accuracy": 0.97,
        "val_macro_f1": accuracy * 0.98,
        "val_balanced_accuracy": accuracy * 0.99,
        "images_per_second": 480.0,
        "epoch_seconds": 1.25,
        "last_learning_rate": 1e-3 / epoch,
        "parameters": 3_400_000.0,
        "trainable_parameters": 6_405.0,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _study_facts(directory: Path, *, trials: int, epochs: int) -> dict[str, Any]:
    data = {
        "source": "synthetic",
        "contents": "synthetic",
        "fingerprint": "synthetic",
        "classes": list(CLASSES),
    }
    return {
        "study": directory.name,
        "created": "2026-01-02T03:04:05",
        "space": "synthetic",
        "metric": "val_accuracy",
        "direction": "maximize",
        "flags": {"trials": trials},
        "versions": {},
        "data": data | {"num_train": 0, "num_val": 0, "num_test": 0},
        "image_size": 128,
        "max_epochs": epochs,
        "seed": 0,
        "storage": sqlite_url(StudyPaths(directory).database),
        "status": StudyStatus.FINISHED,
    }


TARGETS = {"leaderboard_s": 2.0, "report_s": 30.0, "report_mb": 15.0}


def measure(directory: Path, *, repeats: int) -> dict[str, Any]:
    """Measure the median seconds of each command as a user runs it."""
    start = time_command("-c", "pass", repeats=repeats)
    leaderboard = time_command("-m", "analysis", "leaderboard", str(directory), repeats=repeats)
    as_json = time_command("-m", "analysis", "leaderboard", str(directory), "--json", repeats=repeats)
    report = time_command("-m", "analysis", "report", str(directory), repeats=1)
    return {
        "process_start_s": round(start, 3),
        "leaderboard_s": round(leaderboard - start, 3),
        "leaderboard_json_s": round(as_json - start, 3),
        "report_s": round(report - start, 3),
        "report_mb": round(StudyPaths(directory).report.stat().st_size / 1e6, 2),
    }


def time_command(*arguments: str, repeats: int) -> float:
    """Measure the median seconds of a Python process."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the leaderboard; the median counts")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "synthetic"
        make_synthetic_study(directory, trials=flags.trials, epochs=flags.epochs)
        result = measure(directory, repeats=flags.repeats)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in (f"{flags.trials:,} trials x {flags.epochs} epochs", "measured", "target"):
        table.add_column(head)
    for name, value in result.items():
        table.add_row(name, str(value), f"< {TARGETS[name]:g}" if name in TARGETS else "")
    Console().print(table)
    print(json.dumps({"trials": flags.trials, "epochs": flags.epochs, **result}))


if __name__ == "__main__":
    main()
