"""The command `python -m analysis`: leaderboard, report, compare, status, sync, clean, portfolio."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from analysis.reading import StudyInfo, find_study, load_study
from contract.environment import prepare_process
from contract.files import plural
from contract.metrics import direction_of
from contract.portfolio import SUFFIX


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that it could not be done, 2 that the flags are wrong."""
    prepare_process()
    flags = _make_parser().parse_args(argv)
    try:
        directories = [find_study(study, runs_dir=flags.runs_dir) for study in flags.studies]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[flags.command](flags, directories)
    except BrokenPipeError:  # piped into head
        sys.stderr.close()
        return 0
    except (ValueError, SQLAlchemyError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What happened in a study?")
    commands = parser.add_subparsers(dest="command", required=True)
    help_of = {
        "leaderboard": "every trial, best first, of one or more studies",
        "report": "write the report, one HTML file that needs no network",
        "compare": "what changed between two studies, and which is better",
        "status": "how far a study is",
        "sync": "bring the MLflow view up to date with the study database",
        "clean": "free the weights of the candidates that are no part of a study's answer",
        "portfolio": "learn which configurations a new study should begin with: for --warm-start FILE",
    }
    made = {name: commands.add_parser(name, help=line, description=line) for name, line in help_of.items()}
    for command in made.values():
        command.add_argument(
            "studies", nargs="+", metavar="STUDY", help="a study directory, or a name under --runs-dir"
        )
        command.add_argument(
            "--runs-dir", type=Path, default=Path("runs"), help="where studies are (default: runs)"
        )
    for name in ("leaderboard", "compare", "status"):
        made[name].add_argument("--json", action="store_true", help="print JSON")
    made["leaderboard"].add_argument("--csv", action="store_true", help="print comma-separated values")
    made["leaderboard"].add_argument(
        "--html", action="store_true", help="print a page that sorts and filters"
    )
    made["leaderboard"].add_argument(
        "--by",
        metavar="NAME",
        help="the best of each backbone, regime, other hyperparameter, or config; studies that differ "
        "in their seed only are averaged",
    )
    made["report"].add_argument(
        "--output", type=Path, metavar="FILE", help="default: report.html in the study"
    )
    made["report"].add_argument(
        "--no-images",
        action="store_true",
        help="a page without a single photo; always so for studies that were searched with --no-images",
    )
    made["leaderboard"].add_argument(
        "--top", type=_positive, metavar="N", help="only the N best (a table without it: 100)"
    )
    made["clean"].add_argument(
        "--predictions",
        action="store_true",
        help="also the predictions, without which scores can be neither corrected nor compared",
    )
    made["portfolio"].add_argument(
        "--out",
        "--output",
        type=_portfolio_file,
        required=True,
        metavar="FILE",
        help="where to write it (.json)",
    )
    made["portfolio"].add_argument(
        "--metric",
        type=_metric,
        metavar="NAME",
        help="what configurations are judged by (default: the first study's)",
    )
    made["sync"].add_argument("--tracking-uri", metavar="URI", help="another MLflow than the study's own")
    return parser


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {value!r}")
    return int(value)


def _portfolio_file(value: str) -> Path:
    if not value.endswith(SUFFIX):
        raise argparse.ArgumentTypeError(f"must end in {SUFFIX}, got {value!r}")
    return Path(value).absolute()


def _metric(value: str) -> str:
    try:
        direction_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _leaderboard(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis import groups, leaderboard

    studies = [load_study(directory) for directory in directories]
    if flags.html:
        from analysis.report.board import render_board_page

        print(render_board_page(studies))
    elif flags.by and not (flags.json or flags.csv):
        groups.print_groups(studies, by=flags.by, top=flags.top)
    elif flags.json or flags.csv:
        rows = (
            groups.group_leaderboard(studies, by=flags.by)
            if flags.by
            else leaderboard.load_leaderboard(studies)
        )[: flags.top]
        print(
            leaderboard.to_json(rows) if flags.json else leaderboard.to_csv(rows),
            end="\n" if flags.json else "",
        )
    else:
        leaderboard.print_table(studies, top=flags.top)
        _print_answers(studies)
    return 0


def _print_answers(studies: Sequence[StudyInfo]) -> None:
    """Print a line for each study that has an answer."""
    from analysis.answer.words import summarise_answer  # numpy takes 0.2 s: not for --json

    console = Console(highlight=False, markup=False, emoji=False)
    for study in studies:
        if line := summarise_answer(study):
            console.print(line if len(studies) == 1 else f"{study.name}: {line}")


def _report(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis.report import write_report

    if flags.output and len(directories) > 1:
        raise ValueError("--output takes one study at a time")
    for directory in directories:
        target = flags.output and flags.output.absolute()
        print(write_report(directory, target, no_images=flags.no_images))
    return 0


def _compare(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis.compare import compare_studies, print_comparison

    if len(directories) != 2:
        raise ValueError(f"compare takes two studies, got {len(directories)}")
    comparison = compare_studies(load_study(directories[0]), load_study(directories[1]))
    if flags.json:
        print(json.dumps(comparison, ensure_ascii=False, indent=1))
    else:
        print_comparison(comparison)
    return 0


def _status(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis import status
    from analysis.answer.words import summarise_answer

    studies = [load_study(directory) for directory in directories]
    loaded = [status.load_status(study) | {"answer": summarise_answer(study) or None} for study in studies]
    if flags.json:
        print(json.dumps(loaded, ensure_ascii=False, indent=1))
    else:
        for one in loaded:
            status.print_status(one, console=Console(highlight=False, markup=False, emoji=False))
    return 0


def _sync(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis.tracking import sync

    for directory in directories:
        written = sync(directory, flags.tracking_uri)
        print(f"{load_study(directory).name}: {written}")
    return 0


def _clean(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis.answer.cleaning import clean_study

    for directory in directories:
        study = load_study(directory)
        freed = clean_study(study, predictions=flags.predictions)
        print(f"{study.name}: {freed / 1e6:,.1f} MB freed; the answer, the records and the report stay")
    return 0


def _portfolio(flags: argparse.Namespace, directories: Sequence[Path]) -> int:
    from analysis.portfolio import make_portfolio, read_past_trials

    studies = [load_study(directory) for directory in dict.fromkeys(directories)]
    metric = flags.metric or studies[0].metric
    trials = {study.name: read_past_trials(study, metric) for study in studies}
    for name in (name for name, found in trials.items() if not found):
        print(f"{name} teaches nothing: no trial ran to its end and reported {metric}", file=sys.stderr)
    teaching = [study for study in studies if trials[study.name]]
    if not teaching:
        raise ValueError(f"no study has a trial that ran to its end and reported {metric}")
    portfolio = make_portfolio(
        [trial for study in teaching for trial in trials[study.name]],
        metric=metric,
        spaces=[study.space for study in teaching],
    )
    portfolio.save(flags.out)
    for entry in portfolio.entries:
        print(f"{entry.name}: {', '.join(f'{name} {value}' for name, value in entry.values.items())}")
    print(
        f"{flags.out}: {plural(len(portfolio.entries), 'configuration')} to try after recipes, learned from "
        f"{plural(portfolio.num_trials, 'trial')} on {plural(portfolio.num_sets, 'set')} of images"
    )
    return 0


COMMANDS = {
    "leaderboard": _leaderboard,
    "report": _report,
    "compare": _compare,
    "status": _status,
    "sync": _sync,
    "clean": _clean,
    "portfolio": _portfolio,
}

if __name__ == "__main__":
    sys.exit(main())
