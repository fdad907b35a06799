"""The four packages meet in data only, and the heavy libraries stay at the edges."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("search_spaces", "trainables", "cluster", "analysis")
ROOMS = (
    "config",
    "data",
    "model",
    "training",
    "sharing",
    "assembly",
    "run",
    "lease",
    "export",
    "preview",
    "trial",
    "distributed",
)
"""Rooms of trainables, in the order data flows: a room imports only from rooms before it."""

EDGES = {
    "ray": ("cluster/", "trainables/trial.py", "trainables/distributed.py"),
    "mlflow": ("analysis/tracking/", "analysis/tracking/served_model.py"),
    "timm": ("trainables/model/",),
    "optuna": ("search_spaces/", "cluster/", "analysis/"),
    "torch": ("trainables/", "analysis/tracking/served_model.py"),
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_none_of_the_other_three(package: str) -> None:
    others = set(PACKAGES) - {package}

    crossings = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] in others
    ]

    assert sources(package)
    assert not crossings


def test_what_all_packages_agree_on_imports_none_of_them() -> None:
    crossings = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("contract")
        for module in imported_modules(path)
        if module.split(".")[0] in PACKAGES
    ]

    assert sources("contract")
    assert not crossings


@pytest.mark.parametrize("library", EDGES)
def test_a_heavy_library_is_imported_only_at_its_edge(library: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in PACKAGES
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] == library and not str(path.relative_to(ROOT)).startswith(EDGES[library])
    ]

    assert not strays


def test_rooms_of_trainables_import_one_way() -> None:
    def room_of(module: str) -> str | None:
        parts = module.split(".")
        return parts[1] if parts[0] == "trainables" and len(parts) > 1 and parts[1] in ROOMS else None

    backwards = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("trainables")
        for module in imported_modules(path)
        for room in [room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))]
        if room and (target := room_of(module)) and ROOMS.index(target) > ROOMS.index(room)
    ]

    assert not backwards
