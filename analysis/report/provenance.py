"""Section on provenance: command, versions, seeds, hashes of weights and data, hardware."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.reading import StudyInfo
from contract.html import Section, details, escape, make_section, paragraph, table

FACTS = {
    "study": "study",
    "created": "created",
    "status": "status",
    "space": "search space",
    "metric": "metric",
    "direction": "direction",
    "seed": "seed",
    "image_size": "image size [px]",
    "fit": "made square by",
    "max_epochs": "most epochs of a trial",
    "weights": "weights",
    "git_revision": "git revision",
    "storage": "study database",
    "tracking_uri": "MLflow",
}

RUN_COLUMNS = ("started", "ended", "how it ended", "git revision", "hardware", "unlike the newest run")


def provenance_section(study: StudyInfo) -> Section:
    facts = study.facts
    rows = [(label, _show(facts[name])) for name, label in FACTS.items() if facts.get(name) is not None]
    data = facts.get("data") or {}
    rows += [("data", data.get("source", "")), ("data fingerprint", data.get("fingerprint", ""))]
    rows += [("hardware", _show(facts.get("hardware")))]
    export = study.paths.model
    if export.card.is_file():
        rows.append(("exported classifier", _describe_export(export.program)))
    versions = [(name, version) for name, version in (facts.get("versions") or {}).items()]
    space = [(row["name"], row["values"], row.get("condition", "")) for row in facts.get("space_table") or []]
    flags = {
        name: value for name, value in (facts.get("flags") or {}).items() if value not in (None, [], False)
    }
    return make_section(
        "provenance",
        "Provenance",
        table(("what", "value"), rows, numeric_from=9),
        details("search space", table(("hyperparameter", "values", "only if"), space, numeric_from=9)),
        details("runs of this study", table(RUN_COLUMNS, _describe_runs(facts), numeric_from=9)),
        details("versions of the newest run", table(("package", "version"), versions, numeric_from=9)),
        details(
            "flags of the newest run", f"<pre>{escape(json.dumps(flags, indent=1, ensure_ascii=False))}</pre>"
        ),
        paragraph(
            "Running the same command with the same versions and data continues, or repeats, this study.",
            kind="note",
        ),
    )


def _describe_runs(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the runs, each with the flags and versions in which it differs from the newest."""
    rows: list[tuple[str, ...]] = []
    for run in facts.get("runs") or []:
        others = [
            f"{name} {run[kind].get(name)}"
            for kind in ("flags", "versions")
            for name in sorted({*run[kind], *(facts.get(kind) or {})})
            if run[kind].get(name) != (facts.get(kind) or {}).get(name)
        ]
        hardware = _show(run["hardware"])
        how = run["how"] or "running, or killed"
        rows.append(
            (run["started"], run["ended"] or "", how, str(run["git_revision"]), hardware, ", ".join(others))
        )
    return rows


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{one} {name}" for name, one in value.items())
    return str(value)


def _describe_export(path: Path) -> str:
    """Name the exported program's path, and the hash by which a deployed file can be recognised."""
    if not path.is_file():
        return str(path.parent)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path}, sha256 {digest[:16]}…"
