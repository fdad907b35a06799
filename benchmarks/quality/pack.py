"""Packs what was recorded into the table: `python -m benchmarks.quality.pack FOLDER`, one file a photo set.

A table that is there already is added to. Of validation photos every predicted class is kept; of test photos
only the share that is right, so that nothing in a replay can look at them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality.splits import SETS, read_splits
from benchmarks.quality.table import FOLDER, table_file
from trainables.data.datasets import find_images


def pack(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Cut the columns of one set's recorded rows into those of validation and of test photos."""
    listing = find_images(str(folder / name / "listing.csv"), cache_dir=folder / "cache")
    is_test = np.array([split == "test" for _, _, split in read_splits(name)])
    parts = []
    for path in sorted((folder / "recorded").glob(f"{name}-*.npz")):
        with np.load(path) as arrays:
            parts.append((int(path.stem.rpartition("-")[2]), dict(arrays)))
    photos = parts[0][1]["photos"]
    assert all(np.array_equal(photos, arrays["photos"]) for _, arrays in parts), "photos in another order"
    labels, tested = listing.labels[photos], is_test[photos]
    predicted = np.concatenate([arrays["predictions"] for _, arrays in parts])
    losses = np.concatenate([arrays["losses"] for _, arrays in parts]).astype(np.float32)
    right = predicted == labels
    return {
        "rows": np.concatenate([arrays["rows"] for _, arrays in parts]).astype(np.int16),
        "repetitions": np.concatenate([np.full(len(arrays["rows"]), n) for n, arrays in parts]).astype(
            np.int8
        ),
        "val_labels": labels[~tested].astype(np.uint8),
        # A photo's predictions lie side by side: mostly the same class, they shrink to a tenth.
        "predicted": np.ascontiguousarray(predicted[:, :, ~tested].transpose(2, 0, 1)),
        "val_loss": losses[:, :, ~tested].mean(axis=2),
        "test_accuracy": right[:, :, tested].mean(axis=2).astype(np.float32),
        "seconds": np.concatenate([arrays["seconds"] for _, arrays in parts]).astype(np.float32),
    }


def merge(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add recorded trainings to a table; those it has already are replaced."""
    assert np.array_equal(old["val_labels"], new["val_labels"]), "photos in another order"
    fresh = set(zip(new["rows"].tolist(), new["repetitions"].tolist(), strict=True))
    keys = zip(old["rows"].tolist(), old["repetitions"].tolist(), strict=True)
    kept = np.array([key not in fresh for key in keys], dtype=bool)
    merged = {"val_labels": old["val_labels"]}
    for column in old.keys() - merged.keys():
        axis = 1 if column == "predicted" else 0
        both = [np.compress(kept, old[column], axis=axis), new[column]]
        merged[column] = np.concatenate(both, axis=axis)
    order = np.lexsort((merged["repetitions"], merged["rows"]))
    return {
        column: array if column == "val_labels" else np.take(array, order, axis=int(column == "predicted"))
        for column, array in merged.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    FOLDER.mkdir(exist_ok=True)
    for name in SETS:
        arrays = pack(folder, name)
        if table_file(name).exists():
            with np.load(table_file(name)) as old:
                arrays = merge(old, arrays)
        np.savez_compressed(table_file(name), **arrays)  # type: ignore[arg-type]
        size = table_file(name).stat().st_size
        print(f"{name}: {len(arrays['rows'])} trainings, {size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
