"""How a trial ends is compared with members of enumerations: mypy lets a misspelt string pass there."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORDS = {"complete", "pruned", "failed", "infeasible", "waiting", "ignored", "pause", "stop", "continue"}
WORDS |= {"diverged", "out of memory", "accelerator", "disk full", "finished", "stopped", "no gain"}
PACKAGES = (
    "contract",
    "analysis",
    "trainables",
    "cluster",
    "benchmarks",
)
"""Those that use the enumerations throughout."""


def compared_words(source: str) -> list[tuple[int, str]]:
    """(line, word) of every comparison with a bare string of the vocabulary."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            constants = [one for one in ast.walk(node) if isinstance(one, ast.Constant)]
            found += [(one.lineno, str(one.value)) for one in constants if one.value in WORDS]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_outcome_is_compared_with_a_bare_string(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word!r}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, word in compared_words(path.read_text(encoding="utf-8"))
    ]

    assert not found


def test_a_comparison_with_a_bare_string_is_found() -> None:
    source = 'is_over = outcome == "failed" or state in ("pruned", Outcome.COMPLETE)'

    assert compared_words(source) == [(1, "failed"), (1, "pruned")]
