"""Packages meet in data only, imports run one way, and heavy libraries stay at the edges."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("search_spaces", "trainables", "cluster", "analysis", "serving")
GROUND_FLOOR = "contract"
MAY_IMPORT_ALL = ("wiring", "benchmarks")
"""With the commands beside the packages (tune.py, finalize.py) and the tests."""

ROOMS = {
    "trainables": (
        "data.datasets",
        "data",
        "device",
        "model.cpu",
        "model.own",
        "model",
        "training.regimes",
        "training",
        "images",
        "activations",
        "timing",
        "checks",
        "synthesis",
        "",
        "export",
        "__main__",
    ),
    "cluster": (
        "schedulers",
        "searchers",
        "study",
        "search",
        "ray_tune",
        "jobs",
        "rehearsal",
        "__main__",
    ),
    "analysis": ("", "calibration", "answer", "report", "tracking", "__main__"),
    "serving": ("backends", "", "prediction", "server", "__main__"),
    "benchmarks": ("simulated", "versus_plain", "accelerator", ""),
}
"""Rooms of each package, in the order that imports may follow: a room imports itself and rooms before it.
The room "" holds the modules that stand in the package's own folder."""

EDGES = {
    "ray": (
        "cluster/ray_tune/",
        "cluster/jobs/",
        "cluster/rehearsal/",
        "trainables/trial.py",
        "trainables/distributed.py",
        "serving/server/run.py",
        "serving/prediction/spread.py",
    ),
    "mlflow": ("analysis/tracking/",),
    "timm": ("trainables/model/", "trainables/export/timm_folder.py", "serving/backends/timm_folder.py"),
    "optuna": ("search_spaces/", "cluster/", "analysis/"),
    "torch": (
        "trainables/",
        "serving/backends/",
        "contract/model_example.py",
        "analysis/tracking/served_model.py",
    ),
}
"""Where alone a heavy library is imported."""

ON_THE_GROUND = {"contract", "numpy", "PIL", "psutil"}
"""What the ground floor imports beside the standard library."""


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def own_modules() -> dict[str, Path]:
    """Dotted name of every module outside the tests -> its file."""
    packages = (*PACKAGES, GROUND_FLOOR, *MAY_IMPORT_ALL)
    paths = [*ROOT.glob("*.py"), *(path for package in packages for path in sources(package))]
    dotted = (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths)
    return dict(zip((name.removesuffix(".__init__") for name in dotted), paths, strict=True))


def own_imports(path: Path) -> set[str]:
    """The project's modules that a file imports; of a package and a module in it, the module."""
    found = set(imported_modules(path)) & own_modules().keys()
    return found - {module.rpartition(".")[0] for module in found}


def room_of(module: str, package: str) -> str | None:
    """The room that a module of the package is in; none for the package itself."""
    inside = module.removeprefix(f"{package}.")
    if module == package:
        return None
    named = [room for room in ROOMS[package] if room and (inside == room or inside.startswith(f"{room}."))]
    return max(named, key=len, default="")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_none_of_the_other_three(package: str) -> None:
    others = {*PACKAGES, *MAY_IMPORT_ALL, "tune", "finalize"} - {package}

    crossings = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] in others
    ]

    assert sources(package)
    assert not crossings


def test_the_ground_floor_imports_nothing_above_it_and_few_libraries() -> None:
    allowed = ON_THE_GROUND | sys.stdlib_module_names

    strays = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(GROUND_FLOOR)
        for module in imported_modules(path)
        if module.split(".")[0] not in allowed
    ]

    assert sources(GROUND_FLOOR)
    assert not strays


@pytest.mark.parametrize("package", ROOMS)
def test_imports_between_rooms_run_one_way(package: str) -> None:
    order = ROOMS[package]

    backwards = [
        f"{path.relative_to(ROOT)} imports {target}"
        for module, path in own_modules().items()
        if module.startswith(f"{package}.")
        for target in own_imports(path)
        if target.startswith(f"{package}.")
        for room, other in [(room_of(module, package), room_of(target, package))]
        if room is not None and other is not None and order.index(other) > order.index(room)
    ]

    assert not backwards


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_a_room_or_a_catalogue(package: str) -> None:
    rooms = set(ROOMS.get(package, ()))
    folders = {
        path.parent.relative_to(ROOT / package).as_posix().replace("/", ".") for path in sources(package)
    }

    assert folders - {"."} <= rooms


def test_no_module_imports_itself_by_way_of_others() -> None:
    imports = {module: own_imports(path) - {module} for module, path in own_modules().items()}
    done: set[str] = set()

    def find_circle(module: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if module in way:
            return (*way[way.index(module) :], module)
        if module in done:
            return ()
        circle = next(filter(None, (find_circle(to, (*way, module)) for to in sorted(imports[module]))), ())
        done.add(module)
        return circle

    circles = [circle for module in imports if (circle := find_circle(module, ()))]

    assert not circles


@pytest.mark.parametrize("library", EDGES)
def test_a_heavy_library_is_imported_only_at_its_edge(library: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in (*PACKAGES, GROUND_FLOOR)
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] == library and not str(path.relative_to(ROOT)).startswith(EDGES[library])
    ]

    assert not strays


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    longest = {
        module: lines
        for module, path in own_modules().items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }

    assert not longest
