"""Checks a data set before it is trained on: a page, a JSON file, and a review file for a person."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from contract.decoding import FULL_RANGE
from contract.environment import expand, usual_cache_dir
from contract.files import printable, write_aside
from trainables.activations.shared import open_cache
from trainables.checks.features import compute_features
from trainables.checks.findings import Findings, group_copies
from trainables.checks.judgement import judge_images
from trainables.checks.known_copies import find_copies
from trainables.checks.looks import describe_looks
from trainables.checks.page import write_page
from trainables.checks.quality import find_odd_pictures, measure_images
from trainables.checks.review import REVIEW_NAME, check_not_decided, make_review
from trainables.checks.summary import majority_line, summarize
from trainables.data.corrections import Correction, carry_out, read_corrections, write_review
from trainables.data.datasets import ImageListing, find_images
from trainables.data.views import storage_size
from trainables.images.preparation import describe_odd, note_uncompared, open_images, show_progress
from trainables.model.backbones import Backbone, find_backbone

SIDES = (224, 160, 128, 96)
"""Image sizes to look at: the largest whose decoded images take no more than half of the cache."""

SHARE_OF_CACHE = 0.5
PAGE_NAME = "check.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes are 0 done, whatever was found, and 2 the flags or the data are wrong."""
    flags = _make_parser().parse_args(argv)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    try:
        for line in run_check(flags, console=console if console.is_terminal else None):
            print(printable(line))
    except (ValueError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; decoded images are kept, so that the same command goes on", file=sys.stderr)
        return 130
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables check",
        description="Look for damaged files, copies, wrong labels, outliers and odd pictures. Nothing is "
        "changed: a review file lists what a person should decide, and tune.py --corrections applies it.",
    )
    cache = usual_cache_dir()
    parser.add_argument(
        "data", metavar="DATA", help="a folder, a CSV, a bucket or a name, as tune.py's --data"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(PAGE_NAME), metavar="FILE", help=f"the page (default: {PAGE_NAME})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found as JSON too")
    parser.add_argument(
        "--review",
        type=Path,
        default=Path(REVIEW_NAME),
        metavar="FILE",
        help=f"the file to decide in (default: {REVIEW_NAME})",
    )
    parser.add_argument(
        "--corrections", type=Path, metavar="FILE", help="a review file with decisions: check what they leave"
    )
    parser.add_argument(
        "--group-by", metavar="WHAT", help="what images that belong together share, as for tune.py"
    )
    parser.add_argument(
        "--backbone",
        default="lite0",
        metavar="NAME",
        help="network that sees the images (default: lite0)",
    )
    parser.add_argument("--weights", default="auto", metavar="PATH", help="its weights, as for tune.py")
    parser.add_argument(
        "--no-features", action="store_true", help="without the network: nothing on labels and outliers"
    )
    parser.add_argument("--no-images", action="store_true", help="a page without a single photo")
    parser.add_argument("--cache-dir", type=Path, default=cache, metavar="DIR", help=f"(default: {cache})")
    parser.add_argument(
        "--cache-gb", type=_positive, default=20.0, metavar="X", help="most disk of the cache (default: 20)"
    )
    return parser


def _positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {value!r}")
    return number


@dataclass
class _Clock:
    """Seconds spent in each phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def run_check(flags: argparse.Namespace, *, console: Console | None = None) -> list[str]:
    """Check the data, write the files, and say in a few lines what was found and where it stands.

    Raises:
        ValueError: in one line, what is wrong with the flags or the data.
        OSError: a file cannot be read or written.
    """
    backbone = find_backbone(flags.backbone)
    review = expand(flags.review)
    goes_on = flags.corrections is not None and expand(flags.corrections) == review
    if not goes_on:
        check_not_decided(review)
    for file in (flags.out, flags.review, *([flags.json] if flags.json else [])):
        _check_folder(file)
    findings, decided = find_all(flags, backbone, console)
    rows = make_review(findings, decided)
    if rows:
        write_review(rows, review)
    else:
        review.unlink(missing_ok=True)  # of an earlier check, without a decision
    write_page(findings, expand(flags.out), review=review if rows else None, with_images=not flags.no_images)
    if flags.json:
        with write_aside(expand(flags.json)) as file:
            file.write_text(json.dumps(findings.as_dict(), indent=1) + "\n", encoding="utf-8")
    return _say(findings, flags, len(rows) - len(decided), len(decided))


def find_all(
    flags: argparse.Namespace, backbone: Backbone, console: Console | None
) -> tuple[Findings, list[Correction]]:
    """Run every check: what was found, and what was decided before."""
    clock = _Clock()
    with clock.phase("listing the images"):
        listing, decided, named = _list(flags)
    side = choose_side(len(listing.paths), budget_gb=flags.cache_gb, backbone=backbone)
    with clock.phase("decoding"):
        (store,), deep = open_images(
            listing,
            fits=[backbone.fit],
            image_size=side,
            cache_dir=expand(flags.cache_dir),
            budget_gb=flags.cache_gb,
            console=console,
        )
    if not store.readable.any():
        raise ValueError(
            f"none of the {len(listing.paths)} images of {listing.source} can be read, the first because: "
            f"{store.facts[0].reason}"
        )
    findings = Findings(
        listing=listing,
        facts=store.facts,
        deep=deep or FULL_RANGE,
        decided=named,
        file_notes=tuple(describe_odd(listing.paths, store.facts, deep=deep or FULL_RANGE)),
        not_checked="labels and outliers were not looked at (--no-features)" if flags.no_features else "",
        seconds=clock.seconds,
    )
    with clock.phase("copies"), show_progress(console, total=len(listing.paths), what="copies") as bar:
        pairs = find_copies(store, progress=bar)
        copies = group_copies(store.facts, pairs or [])
    if pairs is None:
        note = note_uncompared(len(store.facts))
        findings = replace(findings, file_notes=(*findings.file_notes, note))
    with clock.phase("measuring"), show_progress(console, total=len(listing.paths), what="measuring") as bar:
        odd = find_odd_pictures(measure_images(store.images, store.facts, progress=bar), listing.labels)
    findings = replace(findings, copies=tuple(copies), odd=tuple(odd))
    if not flags.no_features:
        rows = np.flatnonzero(store.readable)
        with clock.phase("features"), show_progress(console, total=len(rows), what="features") as bar:
            features = compute_features(
                store.images,
                rows,
                image_size=side,
                fit=backbone.fit,
                backbone=backbone.name,
                weights=flags.weights,
                progress=bar,
                cache=open_cache(str(expand(flags.cache_dir)), flags.cache_gb),
                digests=[store.facts[row].digest for row in rows],
            )
        with clock.phase("labels and outliers"):
            looks = describe_looks(store.images, rows)
            findings = judge_images(findings, features, rows, looks=looks)
    return _pass_over(findings), decided


def _list(flags: argparse.Namespace) -> tuple[ImageListing, list[Correction], frozenset[Path]]:
    """The corrected listing, what --corrections decided, and the paths of the images that it is about."""
    cache_dir = expand(flags.cache_dir)
    listing = find_images(flags.data, cache_dir=cache_dir, group_by=flags.group_by)
    if flags.corrections is None:
        return listing, [], frozenset()
    decided = read_corrections(listing, expand(flags.corrections))
    named = frozenset(listing.paths[image] for one in decided for image in one.images)
    return carry_out(listing, decided, expand(flags.corrections))[0], decided, named


def choose_side(num_images: int, *, budget_gb: float, backbone: Backbone) -> int:
    """Choose the largest image size whose decoded images leave half of the cache to others."""
    largest = min(backbone.image_size, SIDES[0])
    sides = [side for side in (largest, *SIDES) if side <= largest and side >= backbone.smallest]
    sides = [side - side % backbone.patch for side in sides]
    room = SHARE_OF_CACHE * budget_gb * 1e9
    fitting = (side for side in sides if num_images * 3 * storage_size(side, backbone.fit) ** 2 <= room)
    return next(fitting, sides[-1])


def _pass_over(findings: Findings) -> Findings:
    """Leave out what was found about images on which a person has decided."""
    paths, decided = findings.listing.paths, findings.decided
    return replace(
        findings,
        suspects=tuple(one for one in findings.suspects if paths[one.image] not in decided),
        outliers=tuple(one for one in findings.outliers if paths[one.image] not in decided),
        odd=tuple(one for one in findings.odd if paths[one.image] not in decided),
        copies=tuple(
            group for group in findings.copies if not decided.issuperset(paths[one] for one in group.images)
        ),
    )


def _say(findings: Findings, flags: argparse.Namespace, num_new: int, num_decided: int) -> list[str]:
    num_images, num_classes = len(findings.listing.paths), len(findings.listing.classes)
    lines = [
        f"checked {num_images:,} images of {num_classes:,} classes in {sum(findings.seconds.values()):.0f} s",
        *(f"  {note.kind}: {note.text}" for note in (*findings.listing.notes, *findings.file_notes)),
        *([findings.not_checked] if findings.not_checked else []),
        *(f"  {line}" for line in summarize(findings)),
        majority_line(findings),
        *([findings.imbalance.advice] if findings.imbalance.advice else []),
        f"page: {flags.out}",
    ]
    if num_new or num_decided:
        before = f", after {num_decided} decided ones" if num_decided else ""
        lines.append(
            f"to decide: {flags.review} ({num_new} rows{before}); write relabel, drop or keep under action, "
            f"and pass it on: tune.py … --corrections {flags.review}"
        )
    return lines


def _check_folder(file: Path) -> None:
    if file.is_dir():
        raise ValueError(f"{file} is a folder; pass the name of a file to write")
    folder = expand(file).parent
    if not os.access(folder, os.W_OK):
        what = "cannot be written" if folder.exists() else "does not exist"
        raise ValueError(f"{file} cannot be written: the folder {folder} {what}")
