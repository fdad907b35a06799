"""The report page of a study: one self-contained HTML file, with the answer first."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from analysis.answer.record import load_answer
from analysis.finals import read_finals
from analysis.probes import read_probes
from analysis.reading import StudyInfo, connect, load_study, read_extent
from analysis.readings import read_readings
from analysis.report.page import render_page
from contract.files import save_text
from contract.html import Section

_STAMP = re.compile(r"<!-- made of (\w+) -->")


def write_report(study_dir: Path, target: Path | None = None, *, no_images: bool = False) -> Path:
    """Write the report page, by default as report.html into the study, and return its path.

    Args:
        no_images: show no photo, as in studies that were searched with --no-images.

    Raises:
        ValueError: there is no such study, or it has no database.
    """
    study = load_study(study_dir)
    path = target or study.paths.report
    # Before the sections: what is recorded meanwhile must make this page a stale one.
    stamp = f"<!-- made of {_find_stamp(study)} -->\n"
    page = render_page(f"{study.name}: report", _make_sections(study_dir, no_images=no_images)) + stamp
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
    """Hash everything that the page shows: records, study.json and export."""
    with connect(study) as (connection, study_id):
        extent = [*read_extent(connection, study_id), len(read_probes(connection, study_id))]
        finals = [(one.final, one.state, one.epochs) for one in read_finals(connection, study_id)]
        readings = [one.digest for one in read_readings(connection, study_id)]
    answer = load_answer(study.paths)
    values = None if answer is None else answer.as_values()
    state = (dict(study.facts), extent, finals, readings, values, study.paths.model.digest())
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def _make_sections(study_dir: Path, *, no_images: bool) -> list[Section]:
    # Here, because plotly, Optuna and Pillow take a second to import, and the leaderboard needs none of them.
    from analysis.report.account import account_section
    from analysis.report.answer import answer_section
    from analysis.report.board import board_section
    from analysis.report.class_sections import calibration_section, classes_section, failures_section
    from analysis.report.cost_sections import cost_section, workers_section
    from analysis.report.finals_section import finals_sections
    from analysis.report.findings import find_out
    from analysis.report.group_section import groups_section
    from analysis.report.image_sections import image_sections
    from analysis.report.provenance import provenance_section
    from analysis.report.search_sections import search_sections

    study = load_study(study_dir)
    findings = find_out(study, no_images=no_images)
    mistakes, data = image_sections(findings)
    return [
        answer_section(findings),
        account_section(findings),
        board_section(findings.rows, metric=study.metric),
        *finals_sections(findings),
        *search_sections(findings),
        cost_section(findings),
        workers_section(findings),
        classes_section(findings),
        mistakes,
        calibration_section(findings),
        data,
        groups_section(findings),
        failures_section(findings),
        provenance_section(study),
    ]
