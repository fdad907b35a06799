"""The command: make one model of a study's trials, with a score that can be believed.

It does what `tune.py` does at its end, and more where that is asked for: seeds, folds, a refit, views, and
the one reading of the test split. Running the same line again goes on where it was ended.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from analysis.answer.cascade import Cascade, make_cascade
from analysis.calibration.operating_point import parse_target
from analysis.finals import load_finals
from analysis.reading import find_study, load_study, load_trial_rows
from cluster.ray_tune.run import RunEnding
from cluster.search.finals import Chosen, plan_finals
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, name_version
from cluster.study.final_records import FinalRecord
from cluster.study.finalize_config import FinalizeConfig
from cluster.study.flags import parse_finalize_flags
from cluster.study.reopening import config_of_study, reopen_study
from contract.environment import prepare_process
from contract.files import plural, remove_leftovers
from contract.finals import FinalKind, FinalTraining
from contract.messages import State, StudySettings
from contract.stop_signals import stopping_like_ctrl_c
from contract.study_layout import RunOutcome, StudyPaths
from contract.trial_config import make_trial_config
from trainables.data.policies import find_policy
from wiring.answers import AnswerMaker, Wishes
from wiring.cascade import CascadeMaker, Part
from wiring.ends import fail, interrupted
from wiring.final_runs import check_images, reopen_settings, resources_here, run_finals
from wiring.model_formats import FormatAdder, check_libraries, telling_lost_formats
from wiring.plan import console, say
from wiring.results import MAKING, Results
from wiring.split_reading import read_test_split

COMMAND = "finalize.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that it ended badly, 2 that the flags are wrong, 130 interrupted."""
    prepare_process()
    with stopping_like_ctrl_c():
        return start(parse_finalize_flags(argv))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A study that was searched, opened again."""

    study: Study
    config: StudyConfig
    settings: StudySettings
    trials: Mapping[int, Chosen]
    """Every complete trial by its number, as final trainings need it."""

    def maker(self, wishes: Wishes) -> AnswerMaker:
        """Prepare the answer from the candidates that there are now."""
        return AnswerMaker(
            settings=self.settings,
            trials={number: one.config for number, one in self.trials.items()},
            finals=load_finals(load_study(self.study.directory)),
            wishes=wishes,
        )


def start(flags: FinalizeConfig) -> int:
    """Open the study and make what the flags ask for; returns the exit code."""
    with ExitStack() as stack:
        try:
            check_libraries(flags.export)
            if flags.at is not None:
                parse_target(flags.at)
            directory = find_study(flags.study, runs_dir=flags.runs_dir)
            then = find_study(flags.then, runs_dir=flags.runs_dir) if flags.then else None
            cascade = make_cascade(directory, then) if then else None
            opened = [open_locked(one, flags, stack) for one in (directory, then) if one]
        except (ValueError, OSError) as error:
            return fail(error, code=2, command=COMMAND)
        except KeyboardInterrupt:
            return interrupted()
        try:
            first, *others = (open_settings(study, config) for study, config in opened)
            if cascade is not None:
                return finalize_cascade(cascade, first, others[0], flags)
            return finalize(first, flags)
        except ValueError as error:
            return fail(error, code=2, command=COMMAND)
        except (OSError, RuntimeError, SQLAlchemyError) as error:
            return fail(error, code=1, command=COMMAND)
        except KeyboardInterrupt:
            return interrupted()


def open_locked(directory: Path, flags: FinalizeConfig, stack: ExitStack) -> tuple[Study, StudyConfig]:
    """Open a study, which is closed with the stack.

    Raises:
        ValueError: another process drives it, or it is damaged.
    """
    # Of two studies, --storage is for the one whose database does not lie beside it.
    has_file = StudyPaths(directory).database.is_file()
    storage = None if flags.then and has_file else flags.storage
    config = config_of_study(directory, storage=storage, address=flags.address)
    study = reopen_study(config)
    stack.callback(study.close)
    return study, config


def open_settings(study: Study, config: StudyConfig) -> Opened:
    """Read the trials, and make the settings that they ran with.

    Raises:
        ValueError: no trial completed, or weights or images are not there any more.
    """
    trials = {}
    rows = {row["trial"]: row for row in load_trial_rows(load_study(study.directory))}
    for record in study.records.load():
        row = rows[record.number]
        if row["state"] is not State.COMPLETE or not row["kept_at_epoch"]:
            continue
        losses = [epoch.metrics.get("val_loss", math.nan) for _, epoch in sorted(record.epochs.items())]
        check_version(study.info, record.attrs["config"])
        trials[record.number] = Chosen(
            trial=record.number,
            config=record.attrs["config"],
            kept_epoch=row["kept_at_epoch"],
            val_losses=tuple(losses),
        )
    if not trials:
        raise ValueError(f"no trial of {study.directory.name} has completed: run its search to an end first")
    settings = reopen_settings(
        config,
        study.info,
        [one.config for one in trials.values()],
        resources=resources_here(config),
        num_trials=len(trials),
    )
    check_images(settings)
    return Opened(study=study, config=config, settings=settings, trials=trials)


def check_version(info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check that this version knows the hyperparameters of a trial.

    Raises:
        ValueError: it does not; the message names the version that made the study.
    """
    try:
        make_trial_config(config)
    except ValueError as error:
        raise ValueError(
            f"study {info['study']} was made by {name_version(info)}, whose trials mean nothing here "
            f"({str(error).partition(';')[0]}): search again with this version, or finalize it with that one"
        ) from None


def finalize(opened: Opened, flags: FinalizeConfig) -> int:
    """Train what is asked for, make the answer, and read the test split if that is asked for.

    Raises:
        ValueError: the flags do not fit the study.
    """
    check_flags(opened, flags)
    wishes = prepare(opened, flags)
    if isinstance(wishes, int):
        return wishes
    maker = opened.maker(wishes)
    keeps = flags.reads_only  # the model that there is, whatever it was made with
    model = opened.study.paths.model
    if maker.find_current(of_any_wishes=keeps) is None:
        with telling_lost_formats(model, say, asked=flags.export), console.status(MAKING):
            maker.make()
    if flags.test:
        read_test_split(opened.study, opened.settings, maker, say=say)
    adder = FormatAdder(model=model, settings=opened.settings, configs=maker.configs, say=say)
    added = adder.add(flags.export, console)
    results = Results(
        directory=opened.study.directory,
        maker=maker,
        console=console,
        keeps_answer=keeps,
        command=COMMAND,
        tracking_uri=opened.config.tracking_uri,
    )
    return 0 if results.make() and added else 1


def finalize_cascade(cascade: Cascade, first: Opened, second: Opened, flags: FinalizeConfig) -> int:
    """Make the model of two studies; what the flags ask for beside it is done for the first alone.

    Raises:
        ValueError: the studies do not fit, or the flags do not fit the first.
    """
    check_flags(first, flags)
    is_plain = prepare_wishes(flags) == Wishes() and not flags.trains
    parts = [
        Part(study=one.study, settings=one.settings, maker=one.maker(Wishes()), keeps_answer=True)
        for one in (first, second)
    ]
    maker = CascadeMaker(cascade=cascade, first=parts[0], second=parts[1])
    maker.check()
    if not is_plain:
        say(
            f"{second.study.directory.name} takes part with the answer that it has; the other flags are for "
            f"{first.study.directory.name}"
        )
        prepared = prepare(first, flags)
        if isinstance(prepared, int):
            return prepared
        maker = replace(maker, first=replace(parts[0], maker=first.maker(prepared), keeps_answer=False))
    return 0 if maker.make(test=flags.test, formats=flags.export) else 1


def prepare_wishes(flags: FinalizeConfig) -> Wishes:
    return Wishes(rule=flags.rule, at=flags.at, views=max(1, flags.tta), golden=flags.golden)


def prepare(opened: Opened, flags: FinalizeConfig) -> Wishes | int:
    """Predict and train what the answer is to be made of; returns an exit code if that ended badly.

    Raises:
        ValueError: the flags do not fit the study.
    """
    wishes = prepare_wishes(flags)
    if flags.tta > 1:
        predict_views(opened)
    if flags.seeds or flags.folds:
        ending = train(opened, wishes, seeds=flags.seeds, folds=flags.folds)
        if ending is not None:
            return tell_ending(ending)
        if flags.tta > 1:
            predict_views(opened)  # of the new candidates, too
    if flags.rule == "soup":
        make_soups(opened)
    if flags.refit:
        ending = train(opened, wishes, refit=True)
        if ending is not None:
            return tell_ending(ending)
        wishes = replace(wishes, refit=True)
    return wishes


def check_flags(opened: Opened, flags: FinalizeConfig) -> None:
    """Check what flags want of the study before anything is predicted or trained.

    Raises:
        ValueError: one does not fit it.
    """
    if flags.test and not opened.study.info["data"].get("num_test"):
        raise ValueError("--test: the data have no test split, so none can be read: leave the flag out")
    classes = opened.settings.classes
    if flags.at is not None and len(classes) != 2:
        raise ValueError(f"--at: an operating point is for two classes, and these are {len(classes)}")


def train(
    opened: Opened, wishes: Wishes, *, seeds: int = 0, folds: int = 0, refit: bool = False
) -> RunEnding | None:
    """Run what is lacking of the final trainings of the chosen trials; None once all have ended.

    Chosen are the trials that the answer would be made of. For seeds and folds it is chosen among the trials
    alone, so that a run that goes on chooses as the one before it.
    """
    sources = opened.maker(wishes).find_sources(among_trials=not refit)
    chosen = [opened.trials[number] for number in sources if number in opened.trials]
    existing = opened.study.records.load_finals()
    planned = plan_finals(existing, chosen=chosen, seeds=seeds, refit=refit)
    if folds:
        planned += plan_finals([*existing, *planned], chosen=find_frozen(chosen), folds=folds)
    if not planned:
        return None
    say(f"{plural(len(planned), 'final training')} of {', '.join(f'trial {one.trial}' for one in chosen)}")
    ending = run_finals(opened.study, opened.config, opened.settings, planned)
    return None if ending.how is RunOutcome.FINISHED else ending


def find_frozen(chosen: Sequence[Chosen]) -> list[Chosen]:
    """The trials whose backbone is frozen: K folds of a head cost as much as one reading of its features.

    Raises:
        ValueError: there is none, or one trains on synthetic images.
    """
    frozen = [one for one in chosen if one.config.get("unfreeze_depth") == 0]
    others = ", ".join(f"trial {one.trial}" for one in chosen if one not in frozen)
    if synthetic := [one for one in frozen if one.config.get("synthetic_share")]:
        raise ValueError(
            f"--folds: trial {synthetic[0].trial} trains on synthetic images, whose generator has seen what "
            "folds hold out, so that their scores would be too high: use --seeds"
        )
    if not frozen:
        raise ValueError(
            f"--folds is for heads on a frozen backbone, and the answer is made of {others}: use --seeds, or "
            "a --rule whose members are frozen"
        )
    if others:
        say(f"--folds judges heads on a frozen backbone only, not {others}")
    return frozen


def predict_views(opened: Opened) -> None:
    """Predict the mirrored validation images by every candidate that trained on mirrored ones."""
    from trainables.export.split_predictions import write_flipped_predictions

    maker = opened.maker(Wishes())
    refs = [ref for ref in maker.selectable if find_policy(str(maker.configs[ref].get("policy"))).flip]
    if not refs:
        say("no candidate trained on mirrored images: there is no second view")
        return
    for ref in refs:
        path = ref.paths(maker.paths).flipped_predictions
        remove_leftovers(path.parent, path.name)  # of a run that was killed here
    with console.status(f"mirrored validation images, by {plural(len(refs), 'candidate')}"):
        write_flipped_predictions(refs, maker.configs, opened.settings)


def make_soups(opened: Opened) -> None:
    """Average the weights of the candidates that began alike, where that is better than the best of them."""
    from trainables.export.soup import make_soup, soup_key

    maker, records = opened.maker(Wishes()), opened.study.records
    kinds = defaultdict(list)
    for ref in maker.selectable:
        key = soup_key(maker.configs[ref], opened.settings)
        if key is not None and maker.kind_of(ref) != FinalKind.SOUP:
            kinds[key].append(ref)
    for refs in kinds.values():
        known = records.load_finals()
        number = 1 + max((record.final for record in known), default=-1)
        training = FinalTraining.soup(maker.source_of(refs[0]), (ref.name for ref in refs))
        if len(refs) < 2 or any(record.training.key == training.key for record in known):
            continue
        with console.status(f"averaging the weights of {plural(len(refs), 'candidate')}"):
            soup = make_soup(refs, maker.configs, opened.settings, target=opened.study.paths.final(number))
        if soup is None:
            say(f"no average of {', '.join(ref.name for ref in refs)} is better than the best of them")
            continue
        record = FinalRecord(
            final=number,
            training=training,
            config=dict(soup.config),
            state=State.COMPLETE,
            metrics=soup.metrics,
            arrival=time.time(),
        )
        records.record_finals([record])
        taken = ", ".join(f"{ref.name} x {count}" for ref, count in soup.counts.items())
        say(f"final {number} averages the weights of {taken}")


def tell_ending(ending: RunEnding) -> int:
    """Say how the final trainings ended before their time; returns the exit code."""
    if ending.how is RunOutcome.INTERRUPTED:
        return interrupted()
    print(f"finalize.py: the final trainings ended badly: {ending.reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
