"""--warm-start: what a new study takes over from earlier ones, by name, from a file, or from all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from analysis.reading import load_study
from cluster.study.config import AUTO_START, StudyConfig
from cluster.study.directory import recorded_warm_start
from cluster.study.warm_start import (
    Candidate,
    Fit,
    find_warm_starts,
    fit_params,
    fitting_entries,
    most_of_portfolio,
    named_studies,
    portfolio_files,
    rank_candidates,
)
from contract.files import first_line, plural
from contract.study_layout import study_directories
from wiring.plan import Plan, say

Start = dict[str, Any]
"""`name` and `params` of a configuration that a study begins with."""


def find_starts(plan: Plan, data: Mapping[str, Any]) -> list[Start]:
    """Find the configurations that the study begins with after its recipes; a continued study keeps its own.

    Args:
        data: what study.json says of the images.
    """
    config = plan.config
    if not config.warm_start:
        return []
    if recorded := recorded_warm_start(config.directory):
        return recorded
    most = most_of_portfolio(plan.num_trials)
    fit: Fit = partial(fit_params, plan.propose)
    found: list[Candidate] = []
    if AUTO_START in config.warm_start:
        size = most + len(plan.recipes)  # some of which may be chosen, and are left out below
        found += _learn(config, fit, size=size, here=str(data.get("contents", "")))
    found += [one for file in portfolio_files(config) for one in fitting_entries(file, fit)]
    published = [recipe.config for recipe in plan.recipes]
    starts = rank_candidates(_in_order(found), fit=fit, published=published)[:most]
    starts += find_warm_starts(
        named_studies(config),
        runs_dir=config.runs_dir,
        data=data,
        space=plan.propose,
        num_trials=plan.num_trials,
        published=[*published, *(start["params"] for start in starts)],
    )
    names = ", ".join(start["name"] for start in starts)
    say(f"warm start: {names}, after the recipes" if names else "warm start: nothing to take over")
    return starts


def _in_order(found: Sequence[Candidate]) -> list[Candidate]:
    return [replace(one, merit=-float(place)) for place, one in enumerate(found)]


def _learn(config: StudyConfig, fit: Fit, *, size: int, here: str) -> list[Candidate]:
    """Learn what to begin with from all studies of the runs directory, but this one."""
    from analysis.portfolio import PastTrial, choose_trials, read_past_trials

    trials: list[PastTrial] = []
    taught: list[str] = []
    for directory in _other_studies(config):
        try:
            study = load_study(directory)
            known = read_past_trials(study, config.metrics[0])
        except (ValueError, KeyError, TypeError, SQLAlchemyError) as error:  # it must not stop this one
            print(f"--warm-start auto leaves {directory} out: {first_line(error)}", file=sys.stderr)
            continue
        fitting = [replace(one, values=params) for one in known if (params := fit(one.values))]
        trials += fitting
        taught += [study.name] if fitting else []
    say(_tell(taught, trials_of=len(trials), sets=len({trial.data for trial in trials}), config=config))
    chosen = choose_trials(trials, size=size, here=here)
    return [Candidate(name=one.name, params=one.values, merit=0.0) for one in chosen]


def _other_studies(config: StudyConfig) -> Iterable[Path]:
    own = config.directory.resolve()
    return (one for one in study_directories(config.runs_dir) if one.resolve() != own)


def _tell(taught: Sequence[str], *, trials_of: int, sets: int, config: StudyConfig) -> str:
    if not taught:
        return (
            f"--warm-start auto: no other study in {config.runs_dir} has a finished trial that reports "
            f"{config.metrics[0]} and fits --space {config.space}"
        )
    names = ", ".join(taught[:5]) + (f" and {len(taught) - 5} more" if len(taught) > 5 else "")
    return f"--warm-start auto: {plural(trials_of, 'trial')} on {plural(sets, 'set')} of images, of {names}"
