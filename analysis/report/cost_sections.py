"""Sections on cost: the metric against time and size, and how busy the workers were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.leaderboard import find_front
from analysis.reading import Row
from analysis.report.findings import Findings
from analysis.report.page import figure, show_config, show_seconds, show_value
from analysis.report.search_sections import choose_trials
from contract.files import plural
from contract.html import Section, make_section, paragraph
from contract.messages import State
from contract.metrics import Direction

MAX_POINTS = 2000
MAX_BARS = 1500
NUM_BINS = 200
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")
OTHER = "#8a94a3"


def cost_section(findings: Findings) -> Section:
    """Plot the metric against worker time and number of weights, each with its Pareto front."""
    metric = findings.study.metric
    rows = [
        row
        for row in findings.rows
        if State(row["state"]).has_value and row.get(metric) is not None and row["seconds"]
    ]
    if not rows:
        return make_section("cost", "Cost", paragraph("No trial has ended with a result."))
    parts = [_tradeoff(findings, rows, "seconds", "worker time of the trial [s]")]
    for name, label in (("parameters", "weights in all"), ("trainable_parameters", "weights that train")):
        if len({row.get(name) for row in rows}) > 1:
            parts.append(_tradeoff(findings, rows, name, f"{label} [count]"))
    return make_section("cost", "Accuracy against cost", *parts)


def _tradeoff(findings: Findings, rows: Sequence[Row], cost: str, label: str) -> str:
    metric = findings.study.metric
    known = [row for row in rows if row.get(cost)]
    # Best first and so dearest first; drawn from the cheapest on.
    front = find_front(known, {metric: findings.study.direction, cost: Direction.MINIMIZE})[::-1]
    kept = choose_trials(findings, [row["trial"] for row in known], most=MAX_POINTS)
    shown = [row for row in known if row["trial"] in kept]
    groups = list(dict.fromkeys(str(row.get("backbone")) for row in shown))
    data = [
        _cloud(findings, [row for row in shown if str(row.get("backbone")) == name], cost, name, colour)
        for name, colour in zip(groups, [*COLOURS, *[OTHER] * len(groups)], strict=False)
    ]
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": "Pareto front"}
    line |= {"x": [row[cost] for row in front], "y": [row[metric] for row in front]}
    line |= {"line": {"shape": "hv", "color": "#d9480f", "width": 2}, "hoverinfo": "skip"}
    layout = {
        "xaxis": {"title": {"text": label}, "type": "log"},
        "yaxis": {"title": {"text": metric}},
        "hovermode": "closest",
        "margin": {"t": 30, "r": 20},
    }
    spec = {"data": [*data, line], "layout": layout}
    return figure(spec, _conclude(findings, front, cost), title=f"{metric} against {label}")


def _cloud(findings: Findings, rows: Sequence[Row], cost: str, name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row[cost] for row in rows],
        "y": [row[findings.study.metric] for row in rows],
        "text": [f"trial {row['trial']}, {row['state']}" for row in rows],
        "marker": {
            "color": colour,
            "size": 7,
            "symbol": ["circle" if row["state"] is State.COMPLETE else "x" for row in rows],
        },
    }


def _conclude(findings: Findings, front: Sequence[Row], cost: str) -> str:
    """Name the cheapest trial on the front that is within 0.01 of its best."""
    metric, sign = findings.study.metric, findings.study.direction.sign
    top = front[-1]
    close = next(row for row in front if sign * (top[metric] - row[metric]) <= 0.01)

    def price(row: Row) -> str:
        return show_seconds(row[cost]) if cost == "seconds" else f"{row[cost]:,.0f} weights"

    text = (
        f"No trial is both cheaper and better than those on the line ({len(front)}; crosses stopped early)."
    )
    if close is top:
        return f"{text} Nothing cheaper is within 0.01 of the top, trial {top['trial']} ({price(top)})."
    return (
        f"{text} Trial {close['trial']} ({show_config(close, findings.searched[:3])}) is within 0.01 of "
        f"the top ({show_value(metric, close[metric])} against {show_value(metric, top[metric])}) "
        f"for {price(close)} instead of {price(top)}."
    )


def workers_section(findings: Findings) -> Section:
    spans = sorted(_find_spans(findings))
    if not spans:
        return make_section("workers", "Workers", paragraph("No trial has run yet."))
    begin, end = spans[0][0], max(span[1] for span in spans)
    length = max(end - begin, 1e-9)
    slots = _most_at_once(spans)
    busy = sum(stop - start for start, stop, _, _ in spans) / (length * slots)
    conclusion = (
        f"{plural(slots, 'trial')} at most ran at once; these places were busy {100 * min(busy, 1):.0f}% of "
        f"{show_seconds(length)}. Gaps are start-up, pauses of the study, or waiting for the last trials."
    )
    spec = _bars(spans, begin) if len(spans) <= MAX_BARS else _load_curve(spans, begin, length)
    lanes = len({span[2] for span in spans})
    return make_section(
        "workers",
        "Workers",
        figure(spec, conclusion, title="Timeline of the workers", height=min(620, 230 + 34 * lanes)),
    )


def _find_spans(findings: Findings) -> list[tuple[float, float, str, Row]]:
    """Return (start, end, worker, row) of each trial, which ended at its newest epoch."""
    spans = []
    for row in findings.rows:
        curve = findings.curves.get(row["trial"])
        if curve is None or not curve.arrivals:
            continue
        single = row["attempts"] in (None, 1) and row["seconds"]
        start = curve.arrivals[-1] - row["seconds"] if single else curve.arrivals[0] - curve.seconds[0]
        spans.append((start, curve.arrivals[-1], str(row["worker"] or "worker"), row))
    return spans


def _most_at_once(spans: Sequence[tuple[float, float, str, Row]]) -> int:
    """Return the largest number of trials that ran at the same time.

    An overlap below half a second does not count: records arrive a moment after the worker went on.
    """
    events = sorted(
        event
        for start, stop, _, _ in spans
        for event in ((start + 0.5, 1), (max(stop, start + 0.6) - 0.05, -1))
    )
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return max(most, 1)


def _bars(spans: Sequence[tuple[float, float, str, Row]], begin: float) -> dict[str, Any]:
    colours = {
        State.COMPLETE: "#54a24b",
        State.PRUNED: "#8a94a3",
        State.FAILED: "#e45756",
        State.RUNNING: "#4c78a8",
    }
    data = []
    for state in dict.fromkeys(span[3]["state"] for span in spans):
        own = [span for span in spans if span[3]["state"] == state]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": state,
                "base": [(start - begin) / 60 for start, _, _, _ in own],
                "x": [(stop - start) / 60 for start, stop, _, _ in own],
                "y": [worker for _, _, worker, _ in own],
                "text": [f"{row['trial']}" for _, _, _, row in own],
                "hovertext": [f"trial {row['trial']}, {row['epochs']} epochs" for _, _, _, row in own],
                "marker": {"color": colours.get(state, OTHER), "line": {"width": 0.5, "color": "#fff"}},
            }
        )
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "since the first start [min]"}},
        "yaxis": {"title": {"text": "worker"}, "type": "category"},
        "margin": {"t": 30, "r": 20},
    }
    return {"data": data, "layout": layout}


def _load_curve(
    spans: Sequence[tuple[float, float, str, Row]], begin: float, length: float
) -> dict[str, Any]:
    """Plot the number of running trials over time: thousands of bars would show less."""
    width = length / NUM_BINS
    load = [0.0] * NUM_BINS
    for start, stop, _, _ in spans:
        first, last = int((start - begin) / width), int((stop - begin) / width)
        for index in range(max(first, 0), min(last, NUM_BINS - 1) + 1):
            left = begin + index * width
            load[index] += max(0.0, min(stop, left + width) - max(start, left)) / width
    x = [(index + 0.5) * width / 60 for index in range(NUM_BINS)]
    layout = {
        "xaxis": {"title": {"text": "since the first start [min]"}},
        "yaxis": {"title": {"text": "trials running [count]"}, "rangemode": "tozero"},
        "margin": {"t": 30, "r": 20},
    }
    return {
        "data": [{"type": "scatter", "mode": "lines", "x": x, "y": load, "fill": "tozeroy"}],
        "layout": layout,
    }
