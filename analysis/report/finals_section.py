"""Final trainings in the report: the chosen trials once more, with other seeds, on folds, on all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.finals import Final
from analysis.report.findings import Findings
from analysis.report.page import show_seconds, show_value
from contract.files import plural
from contract.finals import FinalKind
from contract.html import Section, details, make_section, paragraph, table
from contract.messages import State

KINDS = {
    FinalKind.SEED: "another seed",
    FinalKind.FOLD: "fold",
    FinalKind.REFIT: "on train and validation",
    FinalKind.SOUP: "average of weights",
}


def finals_sections(findings: Findings) -> list[Section]:
    """The section on what was trained after the search; none where nothing was."""
    finals = findings.finals
    if not finals:
        return []
    metric = findings.study.metric
    facts = {} if findings.answer is None else findings.answer.facts
    ended = sum(one.state is State.COMPLETE for one in finals)
    seconds = show_seconds(sum(one.seconds for one in finals))
    said = (
        f"After the search the chosen trials were trained again: {plural(len(finals), 'training')}, {ended} "
        f"complete, in {seconds} of worker time."
    )
    section = make_section(
        "finals",
        "Final trainings",
        paragraph(said),
        _seeds(facts.get("seeds", ()), metric if findings.answer is None else findings.answer.metric),
        _folds(facts.get("folds", ())),
        details("Each training", _finals_table(finals, metric)),
    )
    return [section]


def _seeds(repeated: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Mean and spread of each configuration that was trained with several seeds; "" without any."""
    if not repeated:
        return ""
    rows = [
        (
            f"trial {one['trial']}",
            len(one["values"]),
            show_value(metric, one["mean"]),
            show_spread(metric, one["deviation"]),
            ", ".join(show_value(metric, value) for value in one["values"]),
        )
        for one in repeated
    ]
    heads = (
        "configuration of",
        "seeds",
        f"{metric}, mean",
        "standard deviation",
        "each, the trial's own first",
    )
    return table(heads, rows)


def show_spread(metric: str, deviation: float) -> str:
    """Format a standard deviation: of shares in points."""
    shown = show_value(metric, deviation)
    return f"{shown[:-1]} points" if shown.endswith("%") else shown


def _folds(judged: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy of each configuration over all images that were dealt into folds; "" without any."""
    if not judged:
        return ""
    rows = []
    for one in judged:
        value, low, high = (show_value("val_accuracy", one[name]) for name in ("accuracy", "low", "high"))
        rows.append(
            (f"trial {one['trial']}", one["folds"], f"{one['images']:,}", f"{value} ({low} to {high})")
        )
    heads = ("configuration of", "folds", "images of train and validation", "accuracy (95% interval)")
    return table(heads, rows)


def _finals_table(finals: Sequence[Final], metric: str) -> str:
    rows = []
    for one in finals:
        kind = KINDS[one.training.kind]
        if one.training.fold is not None:
            kind = f"{kind} {one.training.fold + 1} of {one.training.num_folds}"
        judged = one.training.kind.is_out_of_sample and metric in one.metrics
        rows.append(
            (
                f"final {one.final}",
                kind,
                f"trial {one.training.source}",
                str(one.state),
                show_value(metric, one.metrics[metric]) if judged else "–",
                show_seconds(one.seconds),
            )
        )
    return table(("", "kind", "source", "state", metric, "worker time"), rows, numeric_from=4)
