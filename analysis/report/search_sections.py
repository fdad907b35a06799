"""Sections on the search: history, importance, slices and curves, most of them drawn by Optuna."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from sqlalchemy import text

from analysis.curves import find_rungs
from analysis.reading import StudyInfo, connect
from analysis.report.findings import Findings
from analysis.report.page import figure, show_value
from contract.files import plural
from contract.html import Section, make_section, paragraph
from contract.messages import State
from contract.metrics import Direction, is_better

MAX_CURVES = 120
MIN_TRIALS = 4
NUM_BEST = 100

MAX_TRIALS = 1000
"""Most trials in a figure: more make the page slow and show nothing new."""

MAX_FANOVA = 300
Spec = dict[str, Any]


def search_sections(findings: Findings) -> list[Section]:
    """Build history, importance, coordinates, slices and curves; a section without figures says why."""
    chosen = choose_trials(findings, findings.common_values)
    parameters = load_parameters(findings.study, chosen) if chosen else {}
    values = {trial: findings.common_values[trial] for trial in chosen}
    names = searched_names(parameters, findings.searched)
    if len(values) < MIN_TRIALS or not names or len(set(values.values())) < 2:
        why = (
            f"{plural(len(values), 'trial')} with a result cannot show what mattered: it takes {MIN_TRIALS}."
        )
        empty = make_section("importance", "What mattered", paragraph(why))
        return [history_section(findings), empty, curves_section(findings)]
    study = make_study(parameters, values, findings.study.direction)
    scope = _scope(findings, len(chosen))
    target = f"{findings.study.metric} after epoch {findings.common_epoch}"
    return [
        history_section(findings),
        importance_section(findings, study, names, scope),
        coordinates_section(study, names, target, scope),
        slices_section(study, names, target, scope),
        curves_section(findings),
    ]


def choose_trials(findings: Findings, candidates: Iterable[int], *, most: int = MAX_TRIALS) -> set[int]:
    """Keep all candidates up to `most`, else the best hundred and a fixed random draw of the rest."""
    known = set(candidates)
    ranked = [row["trial"] for row in findings.rows if row["trial"] in known]
    if len(ranked) <= most:
        return set(ranked)
    kept = ranked[: min(NUM_BEST, most // 2)]
    rest = ranked[len(kept) :]
    return set(kept) | set(random.Random(0).sample(rest, most - len(kept)))


def _scope(findings: Findings, num_shown: int) -> str:
    number = len(findings.common_values)
    drawn = f"; {num_shown:,} of them are drawn: the best and a random choice" if num_shown < number else ""
    epoch = findings.common_epoch
    reached = f"the {number:,} trials that reached it"
    return f"Values after epoch {epoch}, for {reached}: the same budget for all{drawn}."


def history_section(findings: Findings) -> Section:
    metric = findings.study.metric
    ended = [row for row in findings.rows if State(row["state"]).has_value and row.get(metric) is not None]
    if not ended:
        return make_section("history", "History", paragraph("No trial has ended with a result."))
    by_number = sorted(ended, key=lambda row: row["trial"])
    line: list[tuple[int, float]] = []
    for row in by_number:
        if is_better(row[metric], line[-1][1] if line else None, maximize=findings.study.maximize):
            line.append((row["trial"], row[metric]))
    shown = choose_trials(findings, [row["trial"] for row in ended], most=2 * MAX_TRIALS)
    values = {row["trial"]: row[metric] for row in ended if row["trial"] in shown}
    states = {row["trial"]: row["state"] for row in ended}
    spec = _history_figure(findings, values, states, line)
    last = line[-1][0]
    after = max(row["trial"] for row in ended) - last
    conclusion = (
        f"The best value so far came with trial {last}; {plural(after, 'later trial')} did not beat it."
    )
    if after and after >= len(ended) / 2:
        conclusion += " The search has levelled off: more of the same will bring little."
    drawn = figure(spec, conclusion, title="Value of every trial in order")
    return make_section("history", "History", drawn)


def _history_figure(
    findings: Findings,
    values: Mapping[int, float],
    states: Mapping[int, State],
    line: list[tuple[int, float]],
) -> Spec:
    """Draw Optuna's history, and add the pruned trials, which it leaves out though most trials are pruned."""
    complete = {trial: value for trial, value in values.items() if states[trial] is State.COMPLETE}
    complete |= {trial: value for trial, value in line if states[trial] is State.COMPLETE}
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "trial"}}}
    layout["yaxis"] = {"title": {"text": f"{findings.study.metric}, kept epoch"}}
    if complete:
        study = make_study({}, complete, findings.study.direction)
        spec = draw("optimization_history", study, target_name=findings.study.metric)
        numbers = sorted(complete)
        for trace in spec["data"]:  # an in-memory study numbers its trials anew
            trace["x"] = numbers
        data, layout = spec["data"], spec["layout"] | layout
    pruned = sorted(trial for trial in values if states[trial] is State.PRUNED)
    marker = {"symbol": "x", "color": "#8a94a3", "size": 6}
    points = {"x": pruned, "y": [values[trial] for trial in pruned], "mode": "markers", "marker": marker}
    if pruned:
        data.append({"type": "scatter", "name": "stopped early", **points})
    return {"data": data, "layout": layout}


def importance_section(findings: Findings, study: Any, names: list[str], scope: str) -> Section:
    spec, method = draw_importance(study, names)
    certain = [
        f"{one.name} (explains {100 * one.explained:.0f}% alone, p = {one.p_value:.3f})"
        for one in findings.importance
        if one.p_value < 0.05
    ]
    conclusion = (
        f"Beyond chance: {', '.join(certain)}."
        if certain
        else "None of them is beyond chance with these trials."
    )
    return make_section(
        "importance",
        "What mattered",
        paragraph(f"{conclusion} {scope}"),
        figure(
            spec,
            f"{method} fits a model to the trials and splits the spread it explains; it gives every "
            "hyperparameter a share, also where there is only noise.",
            title="Importance of hyperparameters",
        ),
        paragraph(
            "Explains alone: share of the variance of the trials' ranks between the hyperparameter's values. "
            "p: how often the strongest of all would look this strong if values were dealt out at random.",
            kind="note",
        ),
    )


def coordinates_section(study: Any, names: list[str], target: str, scope: str) -> Section:
    spec = draw("parallel_coordinate", study, params=names[:7], target_name=target)
    rank = ""
    if len(names) > 1:
        text = "Colour is the rank of the trial: clusters of one colour show good regions."
        rank = figure(
            draw("rank", study, params=names[:2], target_name=target), text, title="Rank", wide=True
        )
    return make_section(
        "coordinates",
        "Parallel coordinates and rank",
        paragraph(scope, kind="note"),
        figure(
            spec,
            "One line a trial; drag along an axis to keep only lines through that range. Where the lines of "
            "the best values gather, the setting matters.",
            title="Parallel coordinates",
            wide=True,
        ),
        rank,
    )


def slices_section(study: Any, names: list[str], target: str, scope: str) -> Section:
    parts = [paragraph(scope, kind="note")]
    for start in range(0, min(len(names), 6), 3):
        spec = draw("slice", study, params=names[start : start + 3], target_name=target)
        text = "Each point is a trial, darker ones came later. A slope or a hump says where to search on."
        parts.append(figure(spec, text, title=f"Slices of {', '.join(names[start : start + 3])}", wide=True))
    if len(names) > 1:
        contour = draw("contour", study, params=names[:2], target_name=target)
        text = f"How {names[0]} and {names[1]} act together, interpolated between the trials (dots)."
        parts.append(figure(contour, text, title="Contour of the two most important", height=480, wide=True))
    return make_section("slices", "Slices and contours", *parts)


def curves_section(findings: Findings) -> Section:
    with_curve = [trial for trial, curve in findings.curves.items() if len(curve.epochs) > 0]
    if not with_curve:
        return make_section("curves", "Learning curves", paragraph("No epoch has been recorded yet."))
    shown = choose_trials(findings, with_curve, most=MAX_CURVES)
    best = findings.best["trial"] if findings.best else None
    data = [_curve_line(findings, trial, is_best=trial == best) for trial in sorted(shown)]
    data.sort(key=lambda line: line["name"].startswith("best"))
    rungs = find_rungs(findings.curves)
    metric = findings.study.metric
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": metric}},
        "showlegend": False,
        "hovermode": "closest",
        "shapes": [_rung_line(rung) for rung in rungs],
        "margin": {"t": 30, "r": 20},
    }
    stopped = sum(curve.stopped for curve in findings.curves.values())
    last = max(curve.epochs[-1] for curve in findings.curves.values() if curve.epochs)
    run = sum(len(curve.epochs) for curve in findings.curves.values())
    conclusion = f"{plural(len(with_curve), 'trial')} ran {plural(run, 'epoch')}"
    conclusion += (
        f", the best in colour{'' if len(shown) == len(with_curve) else f'; {len(shown)} are drawn'}."
    )
    if rungs:
        conclusion += (
            f" Dotted lines are rungs: {plural(stopped, 'trial')} stopped there, which saved up to "
            f"{100 * (1 - run / (len(with_curve) * last)):.0f}% of the epochs."
        )
    return make_section(
        "curves",
        "Learning curves",
        figure({"data": data, "layout": layout}, conclusion, title="Learning curves"),
        _fit_note(findings),
    )


def _curve_line(findings: Findings, trial: int, *, is_best: bool) -> dict[str, Any]:
    curve = findings.curves[trial]
    line = {"color": "#d9480f", "width": 3} if is_best else {"color": "rgba(110,140,190,0.45)", "width": 1.2}
    return {
        "type": "scatter",
        "x": curve.epochs,
        "y": curve.values,
        "name": f"{'best: ' if is_best else ''}trial {trial}",
        "mode": "lines+markers" if len(curve.epochs) < 2 or is_best else "lines",
        "line": line,
        "marker": {"size": 5, "color": line["color"]},
    }


def _rung_line(rung: int) -> dict[str, Any]:
    line = {"dash": "dot", "width": 1, "color": "#8a94a3"}
    return {"type": "line", "x0": rung, "x1": rung, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _fit_note(findings: Findings) -> str:
    best = findings.best
    if best is None or best.get("train_accuracy") is None or best.get("val_accuracy") is None:
        return ""
    train, val = best["train_accuracy"], best["val_accuracy"]
    note = (
        f"At the epoch it keeps ({best['kept_at_epoch']}) the best trial has "
        f"{show_value('train_accuracy', train)} on the "
        f"training images (while its weights changed, with augmentation and dropout) and "
        f"{show_value('val_accuracy', val)} on the validation images"
    )
    if train - val > 0.1:
        return paragraph(f"{note}: it memorises; try more augmentation, dropout or a smaller unfreeze depth.")
    return paragraph(f"{note}.", kind="note")


def load_parameters(study: StudyInfo, trials: set[int]) -> dict[int, dict[str, tuple[Any, BaseDistribution]]]:
    """Load value and distribution as Optuna stores them, by trial number and hyperparameter."""
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
    direction: Direction,
) -> optuna.Study:
    """Make an in-memory Optuna study of complete trials with these parameters and values."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=direction.value)
    for number in sorted(values):
        settings = parameters.get(number, {})
        trial = optuna.trial.create_trial(
            value=values[number],
            params={name: value for name, (value, _) in settings.items()},
            distributions={name: distribution for name, (_, distribution) in settings.items()},
        )
        trial.number = number
        study.add_trial(trial)
    return study


def draw_importance(study: optuna.Study, names: list[str], *, seed: int = 0) -> tuple[Spec, str]:
    """Return the figure and its method: fANOVA up to 300 trials (1 s, growing fast), PED-ANOVA beyond."""
    is_small = len(study.trials) <= MAX_FANOVA
    evaluator: optuna.importance.BaseImportanceEvaluator = (
        optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
        if is_small
        else optuna.importance.PedAnovaImportanceEvaluator()
    )
    figure = optuna.visualization.plot_param_importances(study, evaluator=evaluator, params=names)
    return to_spec(figure), "fANOVA" if is_small else "PED-ANOVA"


def draw(name: str, study: optuna.Study, **options: Any) -> Spec:
    """Draw one of Optuna's figures, by the name of its function without `plot_`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_spec(getattr(optuna.visualization, f"plot_{name}")(study, **options))


def to_spec(figure: Any) -> Spec:
    """Remove title, colours and width, which the page sets."""
    import plotly.io

    figure.update_layout(title=None, template="none", width=None, height=None, margin={"t": 30, "r": 20})
    spec: Spec = json.loads(plotly.io.to_json(figure))
    spec["layout"].pop("template", None)
    return spec


def searched_names(
    parameters: Mapping[int, Mapping[str, tuple[Any, BaseDistribution]]], order: Sequence[str]
) -> list[str]:
    """Keep the hyperparameters with at least two values, which Optuna's figures need, in the given order."""
    values: dict[str, set[Any]] = {}
    for settings in parameters.values():
        for name, (value, _) in settings.items():
            values.setdefault(name, set()).add(value)
    return [name for name in order if len(values.get(name, ())) > 1]
