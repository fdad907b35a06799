"""The table: what every recorded configuration did on a photo set, epoch by epoch, and what it cost."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.rows import MAX_EPOCHS, VARIED, Row, make_rows

FOLDER = Path(__file__).parent / "table"
KeptEpoch = Literal["last", "lowest_loss", "best"]
"""Rule by which one epoch of a trial gives its weights and its value."""
Ties = Literal["loss", "cost", "noise"]
"""Which of equally accurate rows is chosen: the one with the lower validation loss, or the cheaper.

By "noise" those count as equal that lack at most one standard error of the paired difference from the best;
of them the one with the lowest loss is chosen, as the answer of a study does (analysis/answer/rules.py).
"""


def table_file(name: str) -> Path:
    return FOLDER / f"{name}.npz"


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded trainings of one photo set; a training is a row of the table with one of its seeds."""

    name: str
    rows: NDArray[np.int16]
    """Row of each training."""

    repetitions: NDArray[np.int8]
    val_labels: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    """Classes of the validation photos, [photos, trainings, epochs]."""

    val_loss: NDArray[np.float32]
    """[trainings, epochs], nats."""

    test_accuracy: NDArray[np.float32]
    """[trainings, epochs]; only the value of the model handed over may be read."""

    seconds: NDArray[np.float32]
    """CPU seconds on one thread, [trainings, epochs]."""

    @cached_property
    def val_accuracy(self) -> NDArray[np.float64]:
        """[trainings, epochs]"""
        values: NDArray[np.float64] = (self.predicted == self.val_labels[:, None, None]).mean(axis=0)
        return values

    @cached_property
    def trainings(self) -> dict[int, list[int]]:
        """Positions of each row's trainings."""
        found = defaultdict(list)
        for position, row in enumerate(self.rows.tolist()):
            found[row].append(position)
        return dict(found)

    def training(self, row: int, seed: int) -> int:
        """Position of the row's training that a replay with this seed sees."""
        return self.trainings[row][seed % len(self.trainings[row])]

    @cached_property
    def steady_seconds(self) -> NDArray[np.float32]:
        """Seconds of an epoch whose frozen part is cached, by training."""
        fastest: NDArray[np.float32] = self.seconds.min(axis=1)
        return fastest

    @cached_property
    def prefix_seconds(self) -> dict[tuple[str, ...], NDArray[np.float64]]:
        """Seconds of the frozen part's pass over each epoch's views, by backbone and policy: paid once."""
        passes = json.loads((FOLDER / "passes.json").read_text(encoding="utf-8"))
        found = {tuple(key.split()): np.array(seconds) for key, seconds in passes.items()}
        return {key[1:]: seconds for key, seconds in found.items() if key[0] == self.name}

    def kept(self, training: int, rule: KeptEpoch, *, epochs: int = MAX_EPOCHS) -> int:
        """Position of the epoch that the rule keeps of a training's first epochs."""
        if rule == "last":
            return epochs - 1
        if rule == "lowest_loss":
            return int(self.val_loss[training, :epochs].argmin())
        return int(self.val_accuracy[training, :epochs].argmax())

    def test_of(self, row: int, rule: KeptEpoch) -> float:
        """Test accuracy of the row's model, the mean over its recorded seeds."""
        found = self.trainings[row]
        return float(np.mean([self.test_accuracy[at, self.kept(at, rule)] for at in found]))

    def choose(
        self, rows: NDArray[np.int64] | list[int], rule: KeptEpoch, *, seed: int, ties: Ties = "cost"
    ) -> int:
        """The row that validation chooses."""

        def key(row: int) -> tuple[float, float]:
            at = self.training(row, seed)
            epoch = self.kept(at, rule)
            tie = self.steady_seconds[at] if ties == "cost" else self.val_loss[at, epoch]
            return -float(self.val_accuracy[at, epoch]), float(tie)

        best = min(rows, key=key)
        if ties != "noise":
            return best
        reference = self._right(best, rule, seed=seed)
        near = []
        for row in rows:
            lead = reference - self._right(row, rule, seed=seed)
            if lead.mean() <= lead.std() / (len(lead) - 1) ** 0.5 + 1e-9:
                near.append(row)
        return min(near, key=lambda row: key(row)[1])

    def _right(self, row: int, rule: KeptEpoch, *, seed: int) -> NDArray[np.float64]:
        """1 for each validation photo that the row's kept epoch classifies right."""
        at = self.training(row, seed)
        return (self.predicted[:, at, self.kept(at, rule)] == self.val_labels).astype(np.float64)


def prefix_key(config: dict[str, Any]) -> tuple[str, str]:
    """Key of configurations that read the same activations, at whatever depth."""
    return config["backbone"], config["policy"]


@cache
def load_table(name: str) -> Table:
    """Read one set's table."""
    with np.load(table_file(name)) as arrays:
        return Table(name, **{key: arrays[key] for key in arrays})


def recorded_rows(tables: list[Table]) -> list[Row]:
    """The rows that all tables have."""
    common = set.intersection(*(set(table.trainings) for table in tables))
    return [row for row in make_rows() if row.number in common]


def values(row: Row) -> dict[str, Any]:
    """What the space suggested for the row."""
    return {name: row.config[name] for name in VARIED}
