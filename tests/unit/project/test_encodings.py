"""Text files are read and written as UTF-8 on every machine, whatever its locale says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_tune.upload import CODE

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("*.py"), *(path for name in CODE for path in (ROOT / name).rglob("*.py"))])
OPENS_NO_TEXT = ("os", "Image", "tarfile")
"""Modules whose `open` has another meaning."""


def calls_without_encoding(source: str) -> Iterator[ast.Call]:
    """Calls that open a file as text and leave its encoding to the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        function, is_method = node.func, isinstance(node.func, ast.Attribute)
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = function.value.id if is_method and isinstance(function.value, ast.Name) else ""  # type: ignore[attr-defined]
        if name in ("read_text", "write_text"):
            yield node
        elif name == "fdopen" or (name == "open" and owner not in OPENS_NO_TEXT):
            position = 0 if name == "open" and is_method else 1
            modes = [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
            modes += node.args[position : position + 1]
            if not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes):
                yield node


def test_no_text_file_is_opened_without_an_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in SOURCES
        for call in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]

    assert len(SOURCES) > 100
    assert not found


@pytest.mark.parametrize(
    ("source", "num_found"),
    [
        ("path.read_text()", 1),
        ("path.write_text(text)", 1),
        ("open('a')", 1),
        ("path.open('w', newline='')", 1),
        ("os.fdopen(number, 'w')", 1),
        ("path.open('rb')", 0),
        ("path.open(mode='rb')", 0),
        ("open('a', encoding='utf-8')", 0),
        ("os.open(path, os.O_RDWR)", 0),
    ],
)
def test_the_search_for_such_calls_finds_them(source: str, num_found: int) -> None:
    assert len(list(calls_without_encoding(source))) == num_found
