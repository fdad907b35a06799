"""Cuts the photo sets of the table once: `python -m benchmarks.quality.splits` writes one CSV a set.

Splits that a set comes with are kept. All others are cut 50 : 20 : 30 by class, and what belongs together
stays together: equal files, and the exposures of one tile. Of flowers5, more than twice as large as the
others, every second group is left out. The CSVs are part of the repository, so that the table does not move
when the project's own cutting changes.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.versus_plain.inputs import default_data

SETS = ("beans", "flowers5", "grocery_fruit", "magnetic_tile", "rsscn7_aerial")
FOLDER = Path(__file__).parent / "splits"
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
MOST_PHOTOS = 2000
"""A larger set is halved: recording the table takes hours."""
_TILE = re.compile(r"tile\d+")


def split_file(name: str) -> Path:
    """Path of a set's CSV, with the columns path (below the set's folder), label and split."""
    return FOLDER / f"{name}.csv"


def read_splits(name: str) -> list[tuple[str, str, str]]:
    """Read (path, label, split) of every photo of a set."""
    with split_file(name).open(newline="", encoding="utf-8") as lines:
        return [(row["path"], row["label"], row["split"]) for row in csv.DictReader(lines)]


def cut(folder: Path, *, seed: int = 0) -> list[tuple[str, str, str]]:
    """Cut a folder of photos into (path, label, split), sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    places = [path.relative_to(folder).parts for path in paths]
    if all(parts[0] in SHARES for parts in places):
        return [("/".join(parts), parts[1], parts[0]) for parts in places]
    groups = list(_group(paths))
    groups.sort(key=lambda group: hashlib.sha256(f"{seed} {min(group)}".encode()).digest())
    if len(paths) > MOST_PHOTOS:
        groups = groups[::2]
    groups.sort(key=len, reverse=True)
    labels = ["/".join(parts[:-1]) for parts in places]
    splits = _deal(groups, labels)
    rows = zip(places, labels, splits, strict=True)
    return [("/".join(parts), label, split) for parts, label, split in rows if split]


def _group(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Positions of photos that belong together: equal files, and photos of one tile."""
    root = list(range(len(paths)))

    def find(at: int) -> int:
        while root[at] != at:
            at = root[at]
        return at

    first: dict[str, int] = {}
    for at, path in enumerate(paths):
        keys = [hashlib.sha256(path.read_bytes()).hexdigest()]
        if tile := _TILE.match(path.name):
            keys.append(tile[0])
        for key in keys:
            root[find(at)] = find(first.setdefault(key, at))
    members = defaultdict(list)
    for at in range(len(paths)):
        members[find(at)].append(at)
    yield from members.values()


def _deal(groups: Sequence[Sequence[int]], labels: Sequence[str]) -> list[str]:
    """Deal groups in turn, each to the split that lacks most of its classes; "" for photos of no group."""
    used = Counter(labels[at] for group in groups for at in group)
    wanted = {(split, label): share * n for label, n in used.items() for split, share in SHARES.items()}
    splits = [""] * len(labels)
    for group in groups:
        counts = Counter(labels[at] for at in group)
        lacks = {split: sum(n * wanted[split, label] for label, n in counts.items()) for split in SHARES}
        chosen = max(SHARES, key=lambda split: lacks[split])
        for at in group:
            splits[at] = chosen
            wanted[chosen, labels[at]] -= 1
    return splits


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in SETS:
        rows = cut(default_data().parent / name)
        with split_file(name).open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(("path", "label", "split"))
            writer.writerows(rows)
        counts = Counter(split for _, _, split in rows)
        print(f"{name}: {len(rows)} photos, " + ", ".join(f"{counts[split]} {split}" for split in SHARES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
