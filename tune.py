"""The command: find the best way to fine-tune an image classifier on labelled images.

Flags become a plan, the plan a study, the study a search. Running the same line again continues the study.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from analysis.answer.words import say_next
from analysis.leaderboard import print_leaderboard
from analysis.tracking import Tracker
from cluster.jobs.flags import check_job_folders
from cluster.ray_tune.resources import check_workers, describe_unused_gpus
from cluster.ray_tune.run import RunEnding
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, open_study
from cluster.study.environment_lines import follow_environment
from cluster.study.flags import parse_flags
from cluster.study.job_environment import in_job
from cluster.study.passwords import without_password
from contract.environment import prepare_process
from contract.files import first_line
from contract.stop_signals import stopping_like_ctrl_c
from contract.study_layout import RunOutcome
from trainables.data.manifest import Manifest
from trainables.images.preparation import Preparation
from wiring.backbone_choice import preview_backbones, settle_backbones
from wiring.plan import Plan, console, fetch_all_weights, make_plan, print_plan, say
from wiring.results import Results, attempt, how_long_a_trial_takes, why_nothing_completed
from wiring.search import (
    describe_probing,
    make_answer_maker,
    make_search,
    read_images,
    run_leases,
    study_facts,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that the study ended badly, 2 that the flags are wrong, 130 interrupted."""
    prepare_process()
    with stopping_like_ctrl_c():
        return start(parse_flags(argv))


def start(config: StudyConfig) -> int:
    """Plan and run what the flags say; returns the exit code."""
    try:
        check_job_folders(config)
        config, lines = follow_environment(config, os.environ)
        for line in lines:
            print(line, file=sys.stderr)
        if in_job():
            say(f"in a Ray job: searching on its cluster, with the study in {config.directory}")
        if unused := describe_unused_gpus(config):
            print(unused, file=sys.stderr)
        plan = make_plan(config)
        if config.dry_run:
            preview_backbones(plan)
            print_plan(plan, console)
            return 0
        plan = fetch_all_weights(plan)
    except (ValueError, OSError) as error:
        return fail(error, code=2)
    except KeyboardInterrupt:
        return interrupted()
    try:
        manifest, found = read_images(plan)
        plan = settle_backbones(plan, manifest, found)
        check_workers(config, num_val=len(manifest.indices("val")))
        return run_study(plan, manifest, found)
    except ValueError as error:  # flags that fit neither the images, nor the study, nor the cluster
        return fail(error, code=2)
    except (OSError, RuntimeError, SQLAlchemyError) as error:
        return fail(error, code=1)
    except KeyboardInterrupt:
        return interrupted()


def fail(error: Exception, *, code: int) -> int:
    print(f"tune.py: {without_password(first_line(error))}", file=sys.stderr)
    return code


def interrupted() -> int:
    print("\ninterrupted; run the same command to continue", file=sys.stderr)
    return 130


def run_study(plan: Plan, manifest: Manifest, found: Preparation) -> int:
    """Create or continue the study, run what is left of its search, and make its missing results.

    Raises:
        ValueError: the flags do not fit; nothing has run yet.
    """
    study = open_study(plan.config, facts=study_facts(plan, manifest, found))
    try:
        manifest.write_csv(study.directory / "data.csv")
        search = make_search(plan, study, manifest)
        if search.finished or search.out_of_gain:
            extends = "a wider space extends it" if search.used_up else "--trials extends it"
            more = extends if search.finished else "a larger --patience goes on"
            say(f"study {plan.config.name} is finished; {more}")
            study.note_finished()
            ending = RunEnding(how=RunOutcome.FINISHED)
        else:
            tracker = Tracker(study.directory)
            say(plan.stopping_line)
            if probing := describe_probing(study, search):
                say(probing)
            ending = run_leases(plan, study, search, tracker)
            if (
                ending.how is RunOutcome.LOST
            ):  # nothing may be written any more: the study may be another driver's
                print(f"tune.py: stopped: {ending.reason}", file=sys.stderr)
                return 1
            end_run(study, ending)
            # In the background it has kept up so far; an interrupted user waits for his prompt.
            tracker.finish(timeout=5.0 if ending.how is RunOutcome.INTERRUPTED else 30.0)
        return conclude(plan, study, search, ending)
    finally:
        study.close()


def end_run(study: Study, ending: RunEnding) -> None:
    attempt("study.json could not be written", lambda: study.end(ending.how))


def conclude(plan: Plan, study: Study, search: Search, ending: RunEnding) -> int:
    """Say how the search ended, make the missing results, and say where they are."""
    attempt("files of ended trials could not be removed", Cleaner(study.paths, search).clean_all)
    attempt("the leaderboard could not be shown", lambda: print_leaderboard(study.directory))
    if ending.how is RunOutcome.FAILED:
        print(f"tune.py: the study ended badly: {ending.reason}", file=sys.stderr)
        return 1
    if ending.how is RunOutcome.INTERRUPTED:
        print(
            "stopped (interrupted); run the same command to continue: at its end it writes report and model, "
            "or with --time-budget 1s those of the trials there are",
            file=sys.stderr,
        )
        return 130
    is_complete = search.best_complete() is not None
    maker = make_answer_maker(plan, study, search) if is_complete else None
    made = Results(directory=study.directory, maker=maker, console=console).make()
    if not is_complete:
        return say_nothing_completed(plan, study, search, ending)
    say(say_next(study.directory, has_test=study.info["data"]["num_test"] > 0))
    if search.finished and search.used_up:
        say(f"the search space holds no further configuration: all {len(search.trials)} are tried")
    if ending.how is RunOutcome.NO_GAIN:
        say(f"no gain in the last {plan.config.patience} trials: stopped; a larger --patience goes on")
    elif ending.how is RunOutcome.TIME_BUDGET:
        print("stopped (time budget); run the same command to continue", file=sys.stderr)
    return 0 if made else 1


def say_nothing_completed(plan: Plan, study: Study, search: Search, ending: RunEnding) -> int:
    if ending.how is RunOutcome.TIME_BUDGET:
        text = (
            f"no trial completed within --time-budget {plan.config.time_budget}: "
            f"{how_long_a_trial_takes(search)}; run the same command to continue, or give it more time"
        )
    else:
        text = (
            f"{why_nothing_completed(study, search)}; all: python -m analysis leaderboard {study.directory}"
        )
    print(f"tune.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
