"""Optuna's own figures, drawn from an in-memory study that holds what each figure needs and no more."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from sqlalchemy import text

from analysis.curves import Curve
from analysis.reading import StudyInfo, connect

MAX_TRIALS = 1000
"""Of a cloud of points: more make the page slow and show nothing more."""

MAX_FANOVA = 300
STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}

Spec = dict[str, Any]


def load_parameters(study: StudyInfo, trials: set[int]) -> dict[int, dict[str, tuple[Any, BaseDistribution]]]:
    """Trial -> hyperparameter -> its value and distribution, as Optuna stores them."""
    query = text(
        "SELECT t.number, p.param_name, p.param_value, p.distribution_json FROM trial_params p "
        "JOIN trials t ON t.trial_id = p.trial_id WHERE t.study_id = :id"
    )
    found: dict[int, dict[str, tuple[Any, BaseDistribution]]] = {number: {} for number in trials}
    with connect(study) as (connection, study_id):
        for number, name, value, stored in connection.execute(query, {"id": study_id}):
            if number in found:
                distribution = _read_distribution(stored)
                found[number][name] = (distribution.to_external_repr(value), distribution)
    return found


@lru_cache(maxsize=512)
def _read_distribution(stored: str) -> BaseDistribution:
    return json_to_distribution(stored)


def make_study(
    parameters: Mapping[int, Mapping[str, tuple[Any, BaseDistribution]]],
    values: Mapping[int, float],
    *,
    maximize: bool,
    states: Mapping[int, str] | None = None,
    curves: Mapping[int, Curve] | None = None,
) -> optuna.Study:
    """A study whose trials have these values; all complete unless `states` says otherwise."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    for number in sorted(values):
        state = STATES[states[number]] if states else optuna.trial.TrialState.COMPLETE
        curve = (curves or {}).get(number, Curve())
        settings = parameters.get(number, {})
        trial = optuna.trial.create_trial(
            state=state,
            value=values[number] if state == optuna.trial.TrialState.COMPLETE else None,
            params={name: value for name, (value, _) in settings.items()},
            distributions={name: distribution for name, (_, distribution) in settings.items()},
            intermediate_values=dict(zip(curve.epochs, curve.values, strict=True)),
        )
        trial.number = number
        study.add_trial(trial)
    return study


def draw_importance(study: optuna.Study, names: list[str], *, seed: int = 0) -> tuple[Spec, str]:
    """fANOVA, which takes 1 s for 300 trials and grows fast; beyond that PED-ANOVA. The name says which."""
    is_small = len(study.trials) <= MAX_FANOVA
    evaluator: optuna.importance.BaseImportanceEvaluator = (
        optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
        if is_small
        else optuna.importance.PedAnovaImportanceEvaluator()
    )
    figure = optuna.visualization.plot_param_importances(study, evaluator=evaluator, params=names)
    return to_spec(figure), "fANOVA" if is_small else "PED-ANOVA"


def draw(name: str, study: optuna.Study, **options: Any) -> Spec:
    """One of Optuna's figures, by the name of its function without `plot_`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_spec(getattr(optuna.visualization, f"plot_{name}")(study, **options))


def to_spec(figure: Any) -> Spec:
    """The figure for the page, which brings its own title and colours and fits the width."""
    import plotly.io

    figure.update_layout(title=None, template="none", width=None, height=None, margin={"t": 30, "r": 20})
    spec: Spec = json.loads(plotly.io.to_json(figure))
    spec["layout"].pop("template", None)
    return spec


def searched_names(
    parameters: Mapping[int, Mapping[str, tuple[Any, BaseDistribution]]], order: Sequence[str]
) -> list[str]:
    """Hyperparameters with more than one value, in the given order: Optuna's figures need two."""
    values: dict[str, set[Any]] = {}
    for settings in parameters.values():
        for name, (value, _) in settings.items():
            values.setdefault(name, set()).add(value)
    return [name for name in order if len(values.get(name, ())) > 1]
