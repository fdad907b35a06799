"""The command `python -m serving predict`: labels for photos, in a file that a killed run goes on with."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from contract.environment import expand
from contract.files import DISK_FULL, find_os_error, plural, printable, save_text
from contract.machine import count_cpus
from contract.model_answers import DEFAULT_COVERAGE, ImageAnswer, find_set_threshold
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths, hash_file
from serving.model import Format, find_formats, find_model, list_programs, load_model
from serving.prediction.batches import BatchSize, predict_photos
from serving.prediction.photos import Labels, Listing, Photo, find_label, name_folder, read_labels
from serving.prediction.progress import Progress
from serving.prediction.results_file import ResultsFile, check_out, check_same_run, open_results, sidecar_of
from serving.prediction.results_page import DEFAULT_SHOWN, MostDoubtful, write_results_page
from serving.prediction.rows import Form, Row, RowFormat, as_text, choose_form, make_format
from serving.prediction.scores import Scores

HAND_OVER_ROWS, HAND_OVER_SECONDS = 256, 0.5
"""So many rows, or those of so long, are written at once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes are 0 done, 1 no photo could be read, 2 flags, model or data are wrong."""
    flags = _make_parser().parse_intermixed_args(argv)
    plan = make_plan(flags)
    run = Run(plan)
    try:
        run.predict()
    except KeyboardInterrupt:
        goes_on = f": {plan.out} keeps its rows, and the same line goes on after them" if plan.out else ""
        print(f"\ninterrupted{goes_on}", file=sys.stderr)
        return 130
    except OSError as error:
        if find_os_error(error, DISK_FULL) is None:
            raise
        raise OSError(
            f"no space is left on the disk of {plan.out or 'standard output'}: free some and run the same"
            f" line again{'; it goes on after the rows that are written' if plan.out else ''}"
        ) from error
    return 1 if run.scores.num_photos and run.scores.num_errors == run.scores.num_photos else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving predict",
        description="Label photos. With --out, the same line goes on with a run that was killed.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a study's name, or a model's directory")
    add(
        "photos",
        nargs="*",
        metavar="PHOTOS",
        help="files, folders (with all below), quoted patterns, s3://… or gs://…, or - for a list on stdin",
    )
    add("--csv", type=Path, metavar="FILE", help="a table with a column of paths, counted from its folder")
    add("--column", metavar="NAME", help="the column of paths (default: path, file, image or the like)")
    add("--out", type=Path, metavar="FILE", help="results as .csv or .jsonl (default: to standard output)")
    add(
        "--format",
        choices=[str(one) for one in Form],
        help="(default: by the suffix; a table for a terminal)",
    )
    add("--all", action="store_true", help="the probability of every class, too")
    add(
        "--coverage",
        type=float,
        metavar="X",
        help=f"share of photos whose set holds their class (default: {DEFAULT_COVERAGE})",
    )
    add("--overwrite", action="store_true", help="begin --out anew")
    add(
        "--labels",
        metavar="CSV",
        help="true labels: a table with the columns path,label; folders; or none (default: folders' names,"
        " where most are classes)",
    )
    add("--summary", type=Path, metavar="FILE", help="counts, accuracy and confusions as a line of JSON")
    add("--html", type=Path, metavar="FILE", help="a page of thumbnails, the most doubtful first")
    add("--html-photos", type=_count, default=DEFAULT_SHOWN, metavar="N", help=f"(default: {DEFAULT_SHOWN})")
    add("--model-format", choices=[str(one) for one in Format], default=str(Format.PT2), help="(pt2)")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--batch-size", type=_count, metavar="N", help="photos at once (default: found by itself)")
    add("--threads", type=_count, metavar="N", help="threads that decode (default: one a core)")
    add("--address", metavar="URL", help="a Ray cluster to predict on: auto, ray://host:port, or local")
    add("--workers", type=_count, metavar="N", help="on the cluster (default: one a GPU, or one a core)")
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="of the studies (default: runs)")
    return parser


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {value!r}")
    return int(value)


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What the flags ask for, checked as far as it can be without the model's library."""

    flags: argparse.Namespace
    model: ModelPaths
    card: ModelCard
    listing: Listing
    out: Path | None
    form: Form
    coverage: float
    labels: Labels | None
    """Labels of a table; None if they are in the photos' own table, in folders' names, or nowhere."""

    @property
    def model_format(self) -> Format:
        return Format(self.flags.model_format)

    @property
    def facts(self) -> dict[str, str | bool | float]:
        """What rows of one file have in common."""
        return {
            "model": _digest(self.model, self.model_format),
            "model_format": str(self.model_format),
            "format": str(self.form),
            "coverage": self.coverage,
            "all": bool(self.flags.all),
        }

    def truth(self, photo: Photo) -> str:
        """The label of a photo, where it is known; empty elsewhere."""
        if self.labels is not None:
            return find_label(photo, self.labels)
        if self.listing.with_labels:
            return photo.truth
        return "" if self.flags.labels == "none" else name_folder(photo)


def make_plan(flags: argparse.Namespace) -> Plan:
    """Check the flags, the model and the photos.

    Raises:
        ValueError: one of them is wrong; the line says what to do.
    """
    _check_together(flags)
    files = [expand(one) for one in (flags.out, flags.html, flags.summary) if one is not None]
    if len(set(files)) < len(files):
        raise ValueError("--out, --html and --summary must be different files")
    for file in files:
        check_out(file)
    out = None if flags.out is None else expand(flags.out)
    form = choose_form(out, flags.format, is_terminal=sys.stdout.isatty())
    model = find_model(flags.model, runs_dir=flags.runs_dir)
    card = ModelCard.load(model)
    if Format(flags.model_format) not in find_formats(model):
        load_model(model, Format(flags.model_format))  # raises with the way out, before a library is loaded
    table = None if flags.csv is None else expand(flags.csv)
    labels = None if flags.labels in (None, "none", "folders") else expand(flags.labels)
    is_own = labels is not None and table is not None and labels.exists() and labels.samefile(table)
    own = {str(path) for file in files for path in (file, sidecar_of(file))}
    listing = Listing(flags.photos, table, flags.column, is_own, frozenset(own))
    listing.check()
    plan = Plan(
        flags=flags,
        model=model,
        card=card,
        listing=listing,
        out=out,
        form=form,
        coverage=_choose_coverage(flags.coverage, card),
        labels=None if labels is None or is_own else read_labels(labels),
    )
    if out is not None:
        check_same_run(out, plan.facts, overwrite=flags.overwrite)
    return plan


def _check_together(flags: argparse.Namespace) -> None:
    """Refuse flags that mean nothing without, or beside, others."""
    if not flags.photos and flags.csv is None:
        raise ValueError("which photos? Name files, folders or patterns, --csv FILE, or - for a list")
    if flags.column is not None and flags.csv is None:
        raise ValueError("--column names a column of --csv FILE, which is missing")
    if flags.overwrite and flags.out is None:
        raise ValueError("--overwrite begins --out FILE anew, which is missing")
    if flags.workers is not None and flags.address is None:
        raise ValueError("--workers is for a cluster: pass --address, too")
    if flags.address is not None and (flags.device != "auto" or flags.threads is not None):
        raise ValueError("--device and --threads are for this machine: leave them out with --address")


def _choose_coverage(asked: float | None, card: ModelCard) -> float:
    """The coverage of the sets.

    Raises:
        ValueError: the model has no sets of the coverage that was asked for.
    """
    if asked is not None and not card.set_thresholds:
        raise ValueError("--coverage: this model has no prediction sets; leave it out")
    coverage = DEFAULT_COVERAGE if asked is None else asked
    find_set_threshold(card, coverage)
    return coverage


def _digest(model: ModelPaths, format: Format) -> str:
    """A hash of what decides a model's answers in a format."""
    digests = [hash_file(path) for path in (model.card, *list_programs(model, format)) if path.is_file()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


@dataclass(eq=False)
class Run:
    """One run of the command: photos in, rows out, and what they say together."""

    plan: Plan
    scores: Scores = field(init=False)
    doubtful: MostDoubtful | None = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self.scores = Scores(
            plan.card.classes,
            has_sets=bool(plan.card.set_thresholds),
            coverage=plan.coverage,
            from_folders=plan.flags.labels is None and not plan.listing.with_labels,
            is_sure=plan.flags.labels == "folders",
        )
        self.doubtful = MostDoubtful(plan.flags.html_photos) if plan.flags.html else None

    def predict(self) -> None:
        """Predict what has no row yet, write the rows, and say what was found.

        Raises:
            ValueError: there are no photos, or the file of results is not of this run.
            OSError: the results cannot be written, or the bucket cannot be read.
        """
        plan, began = self.plan, time.monotonic()
        listed = iter(plan.listing)
        first = next(listed, None)
        if first is None:
            raise ValueError(f"there is no image to predict{plan.listing.describe_others()}")
        photos = chain([first], listed)
        rows = make_format(plan.form, plan.card.classes, with_all=plan.flags.all)
        with ExitStack() as stack:
            sink: ResultsFile | _StandardOutput
            if plan.out is None:
                sink = _StandardOutput(rows)
            else:
                overwrite = plan.flags.overwrite
                sink = stack.enter_context(open_results(plan.out, rows, plan.facts, overwrite=overwrite))
                self._read_earlier(sink, photos)
                sink.start()
            num_before = self.scores.num_photos
            if (next_one := next(photos, None)) is not None:
                if num_before:
                    self._say(f"{plan.out} has {plural(num_before, 'row')}; the run goes on after them")
                self._predict_rest(chain([next_one], photos), sink, stack)
        self._finish(num_before, time.monotonic() - began)

    def _read_earlier(self, results: ResultsFile, photos: Iterator[Photo]) -> None:
        """Pass over the photos that have a row, and count their rows."""
        for row in results.earlier():
            photo = next(photos, None)
            if photo is None or as_text(photo.name) != as_text(row.path):
                now = f"{printable(photo.name)} is there now" if photo else "there are no more photos"
                raise ValueError(
                    f"{results.path}: row {results.num_rows:,} is of {printable(row.path)}, where {now}: the"
                    " photos or their order have changed; name another --out, or pass --overwrite"
                )
            self._take(photo, row)

    def _predict_rest(
        self, photos: Iterator[Photo], sink: ResultsFile | _StandardOutput, stack: ExitStack
    ) -> None:
        plan = self.plan
        progress = stack.enter_context(Progress(is_shown=plan.out is not None or plan.form is not Form.TABLE))
        answers = stack.enter_context(closing(self._start(photos, progress.say)))
        waiting: list[Row] = []
        handed_over = time.monotonic()
        with_set = bool(plan.card.set_thresholds)
        # Ctrl-C may come anywhere, also within a write: rows that wait are given up, never written twice.
        for photo, found in answers:
            row = Row.of(photo.name, found, with_set=with_set, with_all=plan.flags.all)
            waiting.append(row)
            self._take(photo, row)
            now = time.monotonic()
            if len(waiting) >= HAND_OVER_ROWS or now > handed_over + HAND_OVER_SECONDS:
                sink.append(waiting)
                progress.advance(len(waiting))
                waiting, handed_over = [], now
        sink.append(waiting)
        progress.advance(len(waiting))

    def _start(
        self, photos: Iterator[Photo], say: Callable[[str], None]
    ) -> Generator[tuple[Photo, ImageAnswer | str], None, None]:
        plan, flags = self.plan, self.plan.flags
        if flags.address is not None:
            from serving.prediction.spread import predict_on_cluster

            return predict_on_cluster(
                plan.model,
                plan.model_format,
                photos,
                address=flags.address,
                coverage=plan.coverage,
                batch_size=flags.batch_size,
                workers=flags.workers,
            )
        model = load_model(plan.model, plan.model_format, device=flags.device, threads=count_cpus())
        size = BatchSize(flags.batch_size, bytes_per_image=12 * plan.card.image_size**2)
        threads = flags.threads or count_cpus()
        return predict_photos(model, photos, coverage=plan.coverage, threads=threads, size=size, say=say)

    def _take(self, photo: Photo, row: Row) -> None:
        truth = self.plan.truth(photo)
        self.scores.add(row, truth)
        if self.doubtful is not None:
            self.doubtful.add(row, photo, truth)

    def _finish(self, num_before: int, seconds: float) -> None:
        plan, scores = self.plan, self.scores
        num_new = scores.num_photos - num_before
        if num_new:
            self._say(f"{plural(num_new, 'photo')} in {seconds:,.0f} s ({num_new / seconds:,.1f} a second)")
        else:
            self._say(f"{plan.out} has the rows of all {plural(num_before, 'photo')} already")
        for line in (*plan.listing.describe_left_out(), *scores.describe()):
            self._say(line)
        if not plan.card.set_thresholds and scores.num_photos > scores.num_errors:
            self._say("the model has no prediction sets: the column set stays empty")
        if scores.is_labelled:
            self._print_confusion()
        if plan.flags.summary is not None:
            about = {"model": plan.model.directory.name, "seconds": round(seconds, 3), "new": num_new}
            save_text(expand(plan.flags.summary), scores.as_line(**about))
        if self.doubtful is not None:
            title = f"Predictions of {plan.card.facts.get('study') or plan.model.directory.name}"
            write_results_page(
                expand(plan.flags.html),
                self.doubtful,
                scores,
                title=title,
                deep=plan.card.deep,
                threads=plan.flags.threads or count_cpus(),
            )
            self._say(f"page: {plan.flags.html}")

    def _print_confusion(self) -> None:
        titles, rows = self.scores.confusion_rows()
        table = Table(box=None, padding=(0, 2, 0, 0))
        text_columns = 1 if self.scores.shown_classes() else 2
        for number, title in enumerate(titles):
            table.add_column(title, justify="left" if number < text_columns else "right")
        for row in rows:
            table.add_row(*row)
        if rows:
            console = Console(stderr=self.plan.out is None, markup=False, emoji=False, highlight=False)
            console.print(table)

    def _say(self, line: str) -> None:
        """Print a line: to standard error where the rows go to standard output."""
        print(printable(line), file=sys.stderr if self.plan.out is None else sys.stdout, flush=True)


class _StandardOutput:
    """Writes rows to standard output as they come."""

    def __init__(self, row_format: RowFormat) -> None:
        self._format = row_format
        sys.stdout.flush()
        self._write(row_format.header)

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        self._write(b"".join(map(self._format.write, rows)))

    def _write(self, content: bytes) -> None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
