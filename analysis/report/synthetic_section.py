"""Section on synthetic images: what could be added to the train split, and whether it helped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.report.findings import Findings
from analysis.synthetic_images import SHARE, SyntheticEffect, find_effect
from contract.html import Section, make_section, paragraph, table

MOST_ROWS = 60
"""Most classes of the table, the surest differences first."""


def synthetic_sections(findings: Findings) -> list[Section]:
    """Make the section, as a list of one; empty where no trial used synthetic images."""
    facts = (findings.study.facts.get("data") or {}).get("synthetic")
    if not facts and not any(row.get(SHARE) for row in findings.rows):
        return []
    effect = find_effect(findings.study, findings.rows)
    return [
        make_section(
            "synthetic",
            "Synthetic images",
            paragraph(_tell_images(facts or {})),
            *(paragraph(line, kind="warning") for line in _tell_collapses(facts or {})),
            *_tell_effect(findings, effect),
        )
    ]


def _tell_images(facts: Mapping[str, Any]) -> str:
    images = facts.get("images") or {}
    counts = ", ".join(f"{name} {number:,}" for name, number in list(images.items())[:12])
    more = f" and {len(images) - 12} more classes" if len(images) > 12 else ""
    maker = facts.get("generator") or "another generator, of which nothing is known"
    overall = (facts.get("quality") or {}).get("overall") or {}
    measured = [f"{name} {value:.2f}" for name, value in overall.items() if isinstance(value, float)]
    quality = f" Measured when they were made: {', '.join(measured)}." if measured else ""
    return (
        f"{sum(images.values()):,} synthetic images by {maker} ({counts}{more}) could be added to the train "
        f"split, as many as synthetic_share says; validation and test hold real images only.{quality}"
    )


def _tell_collapses(facts: Mapping[str, Any]) -> list[str]:
    """Name the classes of which the generator made a few kinds of image only, by its own measures."""
    measured = (facts.get("quality") or {}).get("classes") or {}
    reasons = {name: measured.get(name, {}).get("collapsed") for name in facts.get("images") or {}}
    return [f"Collapsed: {name}, {reason}." for name, reason in reasons.items() if reason]


def _tell_effect(findings: Findings, effect: SyntheticEffect | None) -> list[str]:
    if effect is None:
        return [
            paragraph(
                "Whether they helped cannot be said: it takes a finished trial with some and one of the same "
                "backbone without, and the predictions of both."
            )
        ]
    return [
        paragraph(effect.sentence),
        paragraph(effect.chosen_how, kind="note"),
        paragraph(effect.name_classes([findings.class_name(label) for label in range(_size(effect))])),
        _class_table(findings, effect),
        paragraph(
            "Recall: share of a class's validation images that is found. p: McNemar's exact test on them, "
            "times the number of classes, since with many one differs by luck.",
            kind="note",
        ),
    ]


def _size(effect: SyntheticEffect) -> int:
    return max((one.label for one in effect.classes), default=-1) + 1


def _class_table(findings: Findings, effect: SyntheticEffect) -> str:
    images = ((findings.study.facts.get("data") or {}).get("synthetic") or {}).get("images") or {}
    ordered = sorted(effect.classes, key=lambda one: (one.p_value, one.label))[:MOST_ROWS]
    rows = []
    for one in ordered:
        name = findings.class_name(one.label)
        recalls = (f"{100 * recall:.1f}%" for recall in (one.recall_without, one.recall_with))
        rows.append((name, f"{images.get(name, 0):,}", f"{one.num_images:,}", *recalls, one.verdict))
    head = ("class", "synthetic images", "validation images", "recall without", "recall with", "verdict")
    return table(head, rows)
