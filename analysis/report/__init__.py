"""The report page of a study: one self-contained HTML file, with the answer first."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.answer.record import load_answer
from analysis.finals import read_finals
from analysis.probes import read_probes
from analysis.reading import StudyInfo, connect, load_study, read_extent
from analysis.readings import read_readings
from analysis.report.page import render_page
from contract.files import save_text
from contract.html import Section

if TYPE_CHECKING:
    from analysis.report.findings import Findings

_STAMP = re.compile(r"<!-- made of (\w+) -->")


@dataclass(frozen=True, kw_only=True)
class ReportDraft:
    """What a report says whatever the answer is, so that it can be made before there is one."""

    records: str
    """Stamp of the records that it was made of."""

    findings: Findings
    sections: Mapping[str, Sequence[Section]]


def write_report(
    study_dir: Path,
    target: Path | None = None,
    *,
    no_images: bool = False,
    draft: ReportDraft | None = None,
) -> Path:
    """Write the report page, by default as report.html into the study, and return its path.

    Args:
        no_images: show no photo, as in studies that were searched with --no-images.
        draft: of this study and with these images; it is made anew if records have come since.

    Raises:
        ValueError: there is no such study, or it has no database.
    """
    study = load_study(study_dir)
    path = target or study.paths.report
    # Before the sections: what is recorded meanwhile must make this page a stale one.
    stamp = f"<!-- made of {_find_stamp(study)} -->\n"
    if draft is None or draft.records != _stamp_records(study):
        draft = draft_report(study_dir, no_images=no_images)
    page = render_page(f"{study.name}: report", _all_sections(study, draft)) + stamp
    save_text(path, page, durable=False)
    return path


def is_current(study_dir: Path) -> bool:
    """True if the page exists and was made from the present records, study.json and export."""
    study = load_study(study_dir)
    try:
        page = study.paths.report.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    stamps = _STAMP.findall(page[-100:])
    return bool(stamps) and stamps[-1] == _find_stamp(study)


def _find_stamp(study: StudyInfo) -> str:
    """Hash everything that the page shows: records, study.json, answer and export."""
    answer = load_answer(study.paths)
    values = None if answer is None else answer.as_values()
    return _hash([_stamp_records(study), values, study.paths.model.digest()])


def _stamp_records(study: StudyInfo) -> str:
    """Hash the records and study.json."""
    with connect(study) as (connection, study_id):
        extent = [*read_extent(connection, study_id), len(read_probes(connection, study_id))]
        finals = [(one.final, one.state, one.epochs) for one in read_finals(connection, study_id)]
        readings = [one.digest for one in read_readings(connection, study_id)]
    return _hash([dict(study.facts), extent, finals, readings])


def _hash(state: object) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def draft_report(study_dir: Path, *, no_images: bool = False) -> ReportDraft:
    """Make all sections of a report that do not tell of the answer.

    Raises:
        ValueError: as write_report.
    """
    # Here, because plotly, Optuna and Pillow take a second to import, and the leaderboard needs none of them.
    from analysis.report.board import board_section
    from analysis.report.class_sections import calibration_section, classes_section, failures_section
    from analysis.report.cost_sections import cost_section, workers_section
    from analysis.report.findings import find_out
    from analysis.report.group_section import groups_section
    from analysis.report.image_sections import image_sections
    from analysis.report.search_sections import search_sections
    from analysis.report.synthetic_section import synthetic_sections

    study = load_study(study_dir)
    records = _stamp_records(study)
    findings = find_out(study, no_images=no_images)
    mistakes, data = image_sections(findings)
    sections = {
        "board": [board_section(findings.rows, metric=study.metric)],
        "search": [
            *search_sections(findings),
            *synthetic_sections(findings),
            cost_section(findings),
            workers_section(findings),
            classes_section(findings),
            mistakes,
            calibration_section(findings),
            data,
            groups_section(findings),
            failures_section(findings),
        ],
    }
    return ReportDraft(records=records, findings=findings, sections=sections)


def _all_sections(study: StudyInfo, draft: ReportDraft) -> list[Section]:
    from analysis.report.account import account_section
    from analysis.report.answer import answer_section
    from analysis.report.finals_section import finals_sections
    from analysis.report.provenance import provenance_section

    findings = replace(draft.findings, answer=load_answer(study.paths))
    return [
        answer_section(findings),
        account_section(findings),
        *draft.sections["board"],
        *finals_sections(findings),
        *draft.sections["search"],
        provenance_section(study),
    ]
