"""Runs a planned study from its images to its results; the command's second half."""

from __future__ import annotations

import sys
import time

from sqlalchemy.exc import SQLAlchemyError

from analysis.answer.words import say_next
from analysis.leaderboard import print_leaderboard
from analysis.tracking import Tracker
from cluster.ray_tune.local_ray import LocalRay
from cluster.ray_tune.resources import check_workers
from cluster.ray_tune.run import RunEnding
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.study.directory import Study, open_study
from contract.process_clock import process_started
from contract.study_layout import RunOutcome
from trainables.data.manifest import Manifest
from trainables.images.preparation import Preparation
from wiring.answer_processes import AnswerProcesses
from wiring.backbone_choice import settle_backbones
from wiring.duration import remember_run
from wiring.ends import fail, interrupted
from wiring.plan import Plan, console, say
from wiring.results import Results, attempt, how_long_a_trial_takes, why_nothing_completed
from wiring.search import (
    describe_probing,
    make_answer_maker,
    make_search,
    read_images,
    run_leases,
    study_facts,
)


def run_plan(plan: Plan, started: LocalRay | None = None) -> int:
    """Read the images, search, and make the results; returns the command's exit code.

    Args:
        started: a Ray of this machine that is starting already.
    """
    try:
        manifest, found = read_images(plan)
        plan = settle_backbones(plan, manifest, found)
        check_workers(plan.config, num_val=len(manifest.indices("val")))
        return run_study(plan, manifest, found, started)
    except ValueError as error:  # flags that fit neither the images, nor the study, nor the cluster
        return fail(error, code=2)
    except (OSError, RuntimeError, SQLAlchemyError) as error:
        return fail(error, code=1)
    except KeyboardInterrupt:
        return interrupted()
    finally:
        if started is not None:
            started.stop()


def run_study(plan: Plan, manifest: Manifest, found: Preparation, started: LocalRay | None) -> int:
    """Create or continue the study, run what is left of its search, and make its missing results.

    Raises:
        ValueError: the flags do not fit; nothing has run yet.
    """
    study = open_study(plan.config, facts=study_facts(plan, manifest, found))
    answering = AnswerProcesses(spare_folder=started.spare_folder if started is not None else None)
    tracker = Tracker(study.directory)
    try:
        manifest.write_csv(study.directory / "data.csv")
        if found.synthetic is not None:
            found.synthetic.write_csv(study.paths.synthetic)
        search = make_search(plan, study, manifest)
        if search.finished or search.out_of_gain:
            extends = "a wider space extends it" if search.used_up else "--trials extends it"
            more = extends if search.finished else "a larger --patience goes on"
            say(f"study {plan.config.name} is finished; {more}")
            study.note_finished()
            ending = RunEnding(how=RunOutcome.FINISHED)
            results = prepare_results(plan, study, search, answering, tracker)
            results.begin()
        else:
            say(plan.stopping_line)
            if probing := describe_probing(study, search):
                say(probing)

            def begin_answer() -> None:  # Ray takes a second to end
                prepare_results(plan, study, search, answering, tracker).begin()

            ending = run_leases(
                plan, study, search, tracker, started, answering=answering, on_finished=begin_answer
            )
            if ending.how is RunOutcome.LOST:
                # Nothing may be written any more: the study may be another driver's.
                print(f"tune.py: stopped: {ending.reason}", file=sys.stderr)
                return 1
            end_run(study, ending)
            results = prepare_results(plan, study, search, answering, tracker)
            tracker.begin_to_finish()
            if ending.how not in (RunOutcome.FAILED, RunOutcome.INTERRUPTED):
                results.begin()
            else:
                with console.status("MLflow gets the last results"):
                    # It has kept up so far; an interrupted user waits for his prompt.
                    tracker.finish(timeout=5.0 if ending.how is RunOutcome.INTERRUPTED else 30.0)
        return conclude(plan, study, search, ending, results)
    finally:
        answering.close()
        tracker.close()
        study.close()


def end_run(study: Study, ending: RunEnding) -> None:
    attempt("study.json could not be written", lambda: study.end(ending.how))


def prepare_results(
    plan: Plan, study: Study, search: Search, answering: AnswerProcesses, tracker: Tracker
) -> Results:
    """Prepare to make what the study lacks at the end of its search: answer, report, MLflow."""
    is_complete = search.best_complete() is not None
    maker = make_answer_maker(plan, study, search) if is_complete else None
    return Results(
        directory=study.directory, maker=maker, console=console, answering=answering, tracker=tracker
    )


def conclude(plan: Plan, study: Study, search: Search, ending: RunEnding, results: Results) -> int:
    """Say how the search ended, make the missing results, and say where they are."""
    search_ended = time.time()
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
    made = results.make()
    if results.maker is None:
        return say_nothing_completed(plan, study, search, ending)
    remember_run(plan, search, began=process_started(), search_ended=search_ended, now=time.time())
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
