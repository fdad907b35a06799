"""Sections on the best trial's mistakes (confusion, scores by class, calibration) and on failed trials."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from analysis.predictions import Predictions, calibration, class_scores
from analysis.report.findings import Findings
from analysis.report.page import figure
from contract.files import plural
from contract.html import Section, details, escape, make_section, paragraph, table
from contract.messages import State

LABELLED_CELLS = 15
SHOWN_CLASSES = 25
MATRIX_CLASSES = 30
"""Most classes of the confusion matrix; of more, those with the commonest confusions are shown."""

MOST_ROWS = 300
"""Most classes of the table of scores, the worst first."""

MISSING = (
    "The best trial has left no predictions (trials/<n>/predictions.npz), so this section cannot be shown. "
    "Trials that end with a result leave them; a copied study needs its trials folder."
)


def classes_section(findings: Findings) -> Section:
    predictions = findings.predictions
    if predictions is None or findings.best is None:
        return make_section("classes", "Classes", paragraph(MISSING))
    counts = predictions.class_counts
    names = [findings.class_name(label) for label in range(counts.shape[1])]
    confusions = predictions.confusions()
    shown = choose_shown(counts, confusions)
    best = findings.best
    note = f"Trial {best['trial']}, epoch {best['kept_at_epoch']}, {len(predictions):,} validation images."
    if len(shown) < len(names):
        note += f" The figure shows the {len(shown)} classes of {len(names):,} with the commonest confusions."
    return make_section(
        "classes",
        "Classes",
        paragraph(note, kind="note"),
        _never_predicted(names, counts),
        figure(
            _confusion_figure([names[label] for label in shown], _matrix_of(predictions, shown)),
            _name_confusions(names, confusions),
            title="Confusion matrix",
            height=_matrix_height(len(shown)),
        ),
        "<h3>Precision, recall and F1 by class</h3>",
        _score_table(names, counts),
        paragraph(
            "Precision: share of the answers with this class that are right. Recall: share of this class "
            "that is found. Support: its validation images. Lowest F1 first.",
            kind="note",
        ),
    )


def choose_shown(counts: Any, confusions: list[tuple[int, int, int]]) -> list[int]:
    """Choose the classes of the confusion matrix: all, or of many those of the commonest confusions.

    A matrix of 3,000 classes has nine million cells, 42 MB of page that nobody can read.
    """
    num_classes = counts.shape[1]
    if num_classes <= MATRIX_CLASSES:
        return list(range(num_classes))
    worst = dict.fromkeys(label for true, taken, _ in confusions for label in (true, taken))
    largest = np.argsort(-counts[1], kind="stable").tolist()
    return sorted(list(dict.fromkeys([*worst, *largest]))[:MATRIX_CLASSES])


def _matrix_of(predictions: Predictions, shown: list[int]) -> Any:
    """Count images by [true class, predicted class] among the shown classes; other answers are left out."""
    place = np.full(predictions.log_probabilities.shape[1], -1)
    place[shown] = np.arange(len(shown))
    true, taken = place[predictions.labels], place[predictions.predicted]
    inside = (true >= 0) & (taken >= 0)
    cells = np.bincount(true[inside] * len(shown) + taken[inside], minlength=len(shown) ** 2)
    return cells.reshape(len(shown), len(shown))


def _never_predicted(names: list[str], counts: Any) -> str:
    _, images, predicted = counts
    missed = [name for name, hits, own in zip(names, predicted, images, strict=True) if hits == 0 and own > 0]
    absent = [name for name, own in zip(names, images, strict=True) if own == 0]
    parts = []
    if missed:
        parts.append(
            f"Never predicted: {_list_names(missed)}. Their precision is undefined and their recall 0."
        )
    if absent:
        parts.append(f"Without a validation image: {_list_names(absent)}. Nothing can be said about them.")
    return "".join(paragraph(part, kind="warning") for part in parts)


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return f"{', '.join(names[:12])}{more}"


def _matrix_height(num_classes: int) -> int:
    return min(760, 160 + 40 * num_classes)


def _confusion_figure(names: list[str], confusion: Any) -> dict[str, Any]:
    """Draw a heat map: colours are shares of the true class, so rare classes show; numbers are images."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": np.round(share, 3).tolist(),
        "x": names,
        "y": names,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#f6f9ff"], [0.02, "#dfeaff"], [1, "#1f6feb"]],
        "colorbar": {"title": {"text": "share of<br>the true class"}},
        "hovertemplate": "%{y} taken for %{x}: %{z:.1%}<extra></extra>",
    }
    if len(names) <= LABELLED_CELLS:
        trace |= {"text": confusion.tolist(), "texttemplate": "%{text}"}
    axis = {"type": "category", "automargin": True, "showgrid": False}
    layout = {
        "xaxis": axis | {"title": {"text": "predicted class"}},
        "yaxis": axis | {"title": {"text": "true class"}, "autorange": "reversed"},
        "margin": {"t": 20, "r": 20},
    }
    return {"data": [trace], "layout": layout}


def _name_confusions(names: list[str], confusions: list[tuple[int, int, int]]) -> str:
    if not confusions:
        return "Every validation image is classified right."
    pairs = [f"{names[true]} taken for {names[taken]} ({number})" for true, taken, number in confusions[:5]]
    wrong = sum(number for _, _, number in confusions)
    return f"{plural(wrong, 'image')} wrong. The commonest confusions: {', '.join(pairs)}."


def _score_table(names: list[str], counts: Any) -> str:
    precision, recall, f1 = class_scores(counts)
    support = counts[1]
    order = sorted(
        range(len(names)), key=lambda label: (support[label] == 0, np.nan_to_num(f1[label], nan=0.0))
    )
    rows = [
        (names[i], _percent(precision[i]), _percent(recall[i]), _percent(f1[i]), f"{support[i]:,}")
        for i in order[:MOST_ROWS]
    ]
    head = ("class", "precision", "recall", "F1", "support [images]")
    if len(rows) <= SHOWN_CLASSES + 5:
        return table(head, rows)
    others = f"the other {len(names) - SHOWN_CLASSES:,} classes"
    if len(rows) < len(names):
        others = f"the next {len(rows) - SHOWN_CLASSES:,} of {len(names):,} classes"
    rest = details(others, table(head, rows[SHOWN_CLASSES:]))
    return table(head, rows[:SHOWN_CLASSES]) + rest


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}%"


def calibration_section(findings: Findings) -> Section:
    predictions = findings.predictions
    if predictions is None:
        return make_section("calibration", "Calibration", paragraph(MISSING))
    bins, error = calibration(predictions)
    spec = _calibration_figure(bins)
    return make_section(
        "calibration",
        "Calibration",
        figure(spec, _describe_calibration(predictions, error), title="Calibration"),
    )


def _calibration_figure(bins: list[dict[str, float]]) -> dict[str, Any]:
    x = [one["confidence"] for one in bins]
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "best trial",
        "x": x,
        "y": [one["accuracy"] for one in bins],
        "text": [f"{one['images']:,.0f} images" for one in bins],
        "marker": {"size": [6 + 2 * one["images"] ** 0.5 / 2 for one in bins]},
    }
    ideal: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "ideal"}
    ideal |= {"line": {"dash": "dot", "color": "#8a94a3"}}
    layout = {
        "xaxis": {"title": {"text": "probability the classifier gives its answer"}, "range": [0, 1.02]},
        "yaxis": {"title": {"text": "share of these answers that are right"}, "range": [0, 1.02]},
        "margin": {"t": 20, "r": 20},
    }
    return {"data": [ideal, points], "layout": layout}


def _describe_calibration(predictions: Predictions, error: float) -> str:
    confidence = float(predictions.probabilities.max(axis=1).mean())
    accuracy = float(predictions.right.mean())
    gap = confidence - accuracy
    if abs(gap) < 0.02:
        judgement = "on average its probabilities can be taken at their word"
    elif gap > 0:
        judgement = (
            "it is over-confident: divide its logits by a temperature above 1 before trusting probabilities"
        )
    else:
        judgement = "it is under-confident: it is right more often than it says"
    return (
        f"Mean probability {100 * confidence:.1f}%, accuracy {100 * accuracy:.1f}%: {judgement}. Expected "
        f"calibration error {100 * error:.1f} points over ten bins (larger points hold more images)."
    )


def failures_section(findings: Findings) -> Section:
    failed = [row for row in findings.rows if row["state"] is State.FAILED]
    infeasible = sum(row["state"] is State.INFEASIBLE for row in findings.rows)
    if not failed:
        text = "No trial failed." if findings.rows else "No trial has started yet."
        text += f" {plural(infeasible, 'trial')} broke a limit and did not run." if infeasible else ""
        return make_section("failures", "Failures", paragraph(text))
    reasons = Counter(row["reason"] or "unknown" for row in failed)
    parts = [
        paragraph(f"{plural(len(failed), 'trial')} of {len(findings.rows):,} failed. The rest went on."),
        table(("reason", "trials", "first ones"), [_reason_row(name, failed) for name in reasons]),
    ]
    for name in reasons:
        first = next(row for row in failed if (row["reason"] or "unknown") == name)
        if first["traceback"]:
            text = escape(str(first["traceback"])[-6000:])
            parts.append(details(f"traceback of trial {first['trial']} ({name})", f"<pre>{text}</pre>"))
    return make_section("failures", "Failures", *parts)


def _reason_row(reason: str, failed: list[dict[str, Any]]) -> tuple[str, int, str]:
    trials = sorted(row["trial"] for row in failed if (row["reason"] or "unknown") == reason)
    more = " …" if len(trials) > 8 else ""
    return reason, len(trials), f"{', '.join(map(str, trials[:8]))}{more}"
