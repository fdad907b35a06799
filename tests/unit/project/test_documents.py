"""What the documents point to is there: links between them, and the files and folders they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
LINK = re.compile(r"\]\(([^)#:]+)\)")
PATH = re.compile(
    r"`((?:analysis|benchmarks|cluster|contract|docs|search_spaces|tests|trainables)/[\w./-]*)`"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_of_a_document_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")

    targets = [document.parent / link for link in LINK.findall(text)]
    if document.name != "CHANGELOG.md":  # it names files of earlier versions
        targets += [ROOT / path for path in PATH.findall(text) if "my_" not in path]

    assert not [str(target.relative_to(ROOT)) for target in targets if not target.exists()]
