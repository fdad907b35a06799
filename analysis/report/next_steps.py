"""What to try next: advice that follows from the study's own figures, each with its reason."""

from __future__ import annotations

import math
from collections import Counter

from analysis.comparison import is_share
from analysis.curves import Curve
from analysis.report.findings import Findings
from analysis.report.wording import plural

RISING_EPOCHS = 2
EDGE_SHARE = 0.05
FEW_TRIALS = 30
FEW_IMAGES = 1000


def suggest_next_steps(findings: Findings) -> list[str]:
    steps: list[str] = []
    best = findings.best
    if best is not None:
        steps += _more_epochs(findings)
        steps += _edges_of_the_space(findings)
        steps += _settle_the_first_place(findings)
    steps += _failures(findings)
    if best is not None and len(findings.rows) < FEW_TRIALS and len(findings.searched) > 2:
        steps.append(
            f"More trials: {len(findings.rows)} are few for {len(findings.searched)} hyperparameters. "
            "Run the "
            "same command with a larger --trials; finished trials are not repeated."
        )
    return steps


def _more_epochs(findings: Findings) -> list[str]:
    best = findings.best
    assert best is not None
    curve = findings.curves.get(best["trial"], Curve())
    is_at_end = best["best_epoch"] == best["epochs"] == best.get("max_epochs")
    if not is_at_end or len(curve.values) <= RISING_EPOCHS:
        return []
    gain = abs(curve.values[-1] - curve.values[-1 - RISING_EPOCHS])
    metric = findings.study.metric
    return [
        f"More epochs: the best trial was still improving at its last epoch ({metric} changed by "
        f"{gain:.4f} over the last {RISING_EPOCHS}). A new study with a larger --max-epochs would show."
    ]


def _edges_of_the_space(findings: Findings) -> list[str]:
    best = findings.best
    assert best is not None
    steps = []
    for name in findings.searched:
        values = sorted({row[name] for row in findings.rows if _is_number(row.get(name))})
        value = best.get(name)
        if len(values) < 4 or not _is_number(value):
            continue
        if value in (values[0], values[-1]) and not (value == 0 and values[0] == 0):
            side = "smallest" if value == values[0] else "largest"
            steps.append(
                f"A wider range for {name.replace('_', ' ')}: the best trial has the {side} value that was "
                f"tried ({value:.3g})."
            )
    return steps


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _settle_the_first_place(findings: Findings) -> list[str]:
    verdict = findings.verdict
    if verdict is None or verdict.is_better or verdict.is_worse:
        return []
    few = ", or more validation images" if verdict.num_images < FEW_IMAGES else ""
    metric = findings.study.metric
    half = (verdict.high - verdict.low) / 2
    amount = f"{100 * half:.1f} points" if is_share(metric) else f"{half:.4f}"
    return [
        f"The first two cannot be told apart: differences below about {amount} are noise "
        f"with {verdict.num_images:,} validation images. Take the cheaper one, or repeat both with other "
        f"seeds{few}."
    ]


def _failures(findings: Findings) -> list[str]:
    reasons = Counter(row["reason"] or "unknown" for row in findings.rows if row["state"] == "failed")
    advice = {
        "out of memory": "a micro batch size, a smaller --image-size or fewer trials at once",
        "diverged": "a lower upper bound for the learning rate",
        "data": "a look at the data; the section Failures has the message",
        "accelerator": "another GPU or driver; the section Failures has its error",
        "bug": "a look at the traceback in the section Failures",
    }
    return [
        f"{plural(number, 'trial')} failed ({reason}): try "
        f"{advice.get(reason, 'a look at the section Failures')}."
        for reason, number in reasons.most_common()
    ]
