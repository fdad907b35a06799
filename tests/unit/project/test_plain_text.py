"""Names of studies, spaces and backbones are printed as they are: brackets and colons mean nothing there."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

from analysis.compare import compare_studies, print_comparison
from analysis.groups import print_groups
from analysis.leaderboard import print_table
from analysis.reading import StudyInfo, load_study
from analysis.status import load_status, print_status
from cluster.ray_tune.upload import CODE
from search_spaces import load_space, make_table
from tests.study_factory import FakeTrial, make_study

ROOT = Path(__file__).parents[3]
NAME = "[bold]a:tiger:[/b]"
"""As markup, it would end in a traceback; as an emoji, it would be a picture."""


@pytest.fixture
def study(tmp_path: Path) -> StudyInfo:
    trials = [FakeTrial(config={"backbone": NAME}), FakeTrial(outcome=None, config={"backbone": NAME})]
    return load_study(make_study(tmp_path / "s", trials, study=NAME, status="running"))


@pytest.fixture
def console() -> Console:
    """One that would take markup, as a caller's own may."""
    return Console(width=200, file=io.StringIO(), color_system=None, emoji=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_status_shows_names_as_they_are(study: StudyInfo, console: Console) -> None:
    print_status(load_status(study, now=0.0), console=console)

    assert f"{NAME} running: 1 of 12 trials ended" in printed(console)
    assert f"trial 1: {NAME}" in printed(console)


def test_leaderboards_and_comparisons_show_names_as_they_are(study: StudyInfo, console: Console) -> None:
    print_table([study], console=console)
    print_groups([study], by="backbone", console=console)
    print_comparison(compare_studies(study, study), console=console)

    assert printed(console).count(NAME) > 3


def test_a_space_shows_its_values_as_they_are(console: Console) -> None:
    table = make_table(load_space("demo"), backbones=[NAME, "lite0"], max_epochs=2)

    console.print(table)

    assert NAME in printed(console)


def test_no_console_of_ours_takes_text_for_markup() -> None:
    sources = [*ROOT.glob("*.py"), *(path for name in CODE for path in (ROOT / name).rglob("*.py"))]
    plain = {"markup": False, "emoji": False}

    strays = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources
        if path.parts[len(ROOT.parts)] != "benchmarks"  # which print names of their own only
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
        if not plain.items() <= {k.arg: getattr(k.value, "value", None) for k in node.keywords}.items()
    ]

    assert not strays
