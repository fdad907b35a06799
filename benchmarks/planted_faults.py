"""Precision and recall of the checks on real photos with planted faults.

    UNFREEZE_DATA=… python -m benchmarks planted_faults --sets flowers5 beans --seeds 3

5 % of the labels are changed, 3 % near copies and 2 % foreign images are added. What a check names in the
clean set too is left out of its count; benchmarks/planted/named_in_clean.csv lists it, and says what it is.
The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.planted.measure import Findings, run_checks, score
from benchmarks.planted.plant import plant_faults

SETS = ("flowers5", "beans", "rsscn7_aerial")
COLUMNS = {
    "copies_recall": "copies found",
    "copies_false_share": "others named",
    "labels_precision_at_half": "labels: precision at half",
    "labels_precision": "precision",
    "labels_recall": "recall",
    "foreign_recall": "foreign found",
    "foreign_precision": "precision",
}


def measure_set(
    root: Path, name: str, *, seeds: int, image_size: int, limit: int | None, listed: Path | None
) -> list[dict[str, Any]]:
    """Plant and check a set once for each seed, after the clean one."""
    others = sorted(path for path in root.iterdir() if path.is_dir() and path.name != name)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clean = run_checks(root / name, image_size=image_size, cache_dir=work / "cache")
        if listed:
            _list_named(name, clean, listed)
        for seed in range(seeds):
            target = work / f"seed{seed}"
            truth = plant_faults(root / name, target, seed=seed, others=others, limit=limit)
            found = run_checks(target, image_size=image_size, cache_dir=work / "cache")
            figures = {key: round(value, 4) for key, value in score(found, clean, truth).items()}
            results.append(
                {"set": name, "seed": seed, "images": found.num_images, **figures, **found.seconds}
            )
    return results


def _list_named(name: str, clean: Findings, path: Path) -> None:
    """Append what the checks name in a clean set."""
    rows = [f"{name},copies,{one},{other}" for one, other in clean.copies]
    rows += [f"{name},label,{one}," for one in clean.suspects]
    rows += [f"{name},foreign,{one}," for one in clean.outliers]
    with path.open("a", encoding="utf-8") as lines:
        lines.writelines(f"{row}\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = os.environ.get("UNFREEZE_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--image-size", type=int, default=128, metavar="PX")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most so many images of a set")
    parser.add_argument("--list-clean", type=Path, metavar="FILE", help="append what is named in clean sets")
    flags = parser.parse_args()
    missing = [name for name in flags.sets if not (flags.data / name).is_dir()]
    if missing:
        print(
            f"error: {flags.data} has no {', '.join(missing)}: pass --data or UNFREEZE_DATA", file=sys.stderr
        )
        return 2
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("set, seed", *COLUMNS.values(), "seconds"):
        table.add_column(head)
    results = []
    for name in flags.sets:
        results += measure_set(
            flags.data,
            name,
            seeds=flags.seeds,
            image_size=flags.image_size,
            limit=flags.limit,
            listed=flags.list_clean,
        )
    steps = ("near_copies", "features", "label_errors", "outliers")
    for result in results:
        figures = [f"{result[column]:.1%}" for column in COLUMNS]
        seconds = ", ".join(f"{step} {result[step]:.1f}" for step in steps)
        table.add_row(f"{result['set']} {result['seed']}", *figures, seconds)
    Console(width=200).print(table)
    print(json.dumps({"planted_faults": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
