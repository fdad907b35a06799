"""Private names of libraries that this project uses: no release promises them, so each is looked up here.

A failure names the files to mend. Until they are mended, pyproject.toml needs an upper bound on that library.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import optuna
import pytest
import ray
import torch
from optuna.distributions import FloatDistribution
from optuna.storages._rdb import models
from ray._private import ray_constants
from ray._private.node import Node
from torchvision import datasets

from cluster.ray_tune.upload import CODE

ROOT = Path(__file__).parents[3]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted([*ROOT.glob("*.py"), *(path for name in CODE for path in (ROOT / name).rglob("*.py"))])
}
STUDY = optuna.create_study(storage=optuna.storages.InMemoryStorage())
TRIAL = STUDY.ask()
STORAGE: Any = STUDY._storage

OWNERS: dict[str, Callable[[], Any]] = {
    "argparse.ArgumentParser()._actions": argparse.ArgumentParser,
    "fsspec.AbstractFileSystem._strip_protocol": lambda: fsspec.AbstractFileSystem,
    "optuna.BaseDistribution._contains": lambda: FloatDistribution(0, 1),
    "optuna.InMemoryStorage()._max_trial_id": lambda: STORAGE,
    "optuna.InMemoryStorage()._studies": lambda: STORAGE,
    "optuna.InMemoryStorage()._trial_id_to_study_id_and_number": lambda: STORAGE,
    "optuna.Study._get_trials": lambda: STUDY,
    "optuna.Study._is_multi_objective": lambda: STUDY,
    "optuna.Study._study_id": lambda: STUDY,
    "optuna.Trial._trial_id": lambda: TRIAL,
    "torch._foreach_copy_": lambda: torch,
    "torch._foreach_lerp_": lambda: torch,
    "torch.nn.Module._apply": torch.nn.Module,
    "torch.nn.Module._modules": torch.nn.Module,
    "torch.nn.modules.batchnorm._BatchNorm": lambda: torch.nn.modules.batchnorm,
}
"""Each private attribute, and what makes the object that must have it. Private imports need no row."""

SQL_COLUMNS = {
    "studies": ("study_id", "study_name"),
    "trials": ("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    "trial_params": ("trial_id", "param_name", "param_value", "distribution_json"),
    "trial_user_attributes": ("trial_id", "key", "value_json"),
}
"""Columns of Optuna's tables that `analysis` names in SQL."""

TORCHVISION_LISTS = {"Flowers102": ("_image_files", "_labels"), "OxfordIIITPet": ("_images", "_labels")}
"""Attributes that torchvision's sets fill when they are made, which needs their files."""


class PrivateName(NamedTuple):
    """A private name as a file uses it."""

    module: str
    name: str
    """As imported: `models`; or with an attribute taken from it: `models.TrialModel`."""


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_imports(tree: ast.Module) -> Iterator[PrivateName]:
    """Names imported from private modules of libraries, and the attributes that are taken from them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if node.module.split(".")[0] not in CODE and is_private(f"{node.module}.{alias.name}"):
                    names[alias.asname or alias.name] = PrivateName(node.module, alias.name)
        elif isinstance(node, ast.Import):
            private = [alias.name for alias in node.names if is_private(alias.name)]
            assert not private, f"write `from ... import ...`, so that this test can follow it: {private}"
    yield from names.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            module, name = names[node.value.id]
            yield PrivateName(module, f"{name}.{node.attr}")


def foreign_attributes(tree: ast.Module) -> Iterator[str]:
    """Private attributes that are taken from anything but `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls"):
                yield node.attr


def own_attributes() -> set[str]:
    """Private names that the project itself defines: one of its classes may look into another of its file."""
    found = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


def files_with(attribute: str) -> list[str]:
    return [path for path, tree in SOURCES.items() if attribute in set(foreign_attributes(tree))]


def mend(name: str, library: str, files: list[str]) -> str:
    release = "" if library == "argparse" else f" {version(library)}"
    return f"{library}{release} has no {name}: mend {', '.join(files)}, or bound {library} in pyproject.toml"


IMPORTS = sorted({(name, path) for path, tree in SOURCES.items() for name in private_imports(tree)})


@pytest.mark.parametrize(("private", "path"), IMPORTS, ids=[".".join(name) for name, _ in IMPORTS])
def test_a_private_name_that_is_imported_is_there(private: PrivateName, path: str) -> None:
    library = private.module.split(".")[0]
    try:
        found = importlib.import_module(private.module)
        first, *others = private.name.split(".")
        found = getattr(found, first, None) or importlib.import_module(f"{private.module}.{first}")
        for name in others:
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{mend(f'{private.module}.{private.name}', library, [path])} ({error})")


@pytest.mark.parametrize("name", OWNERS)
def test_a_private_attribute_is_there(name: str) -> None:
    library, attribute = name.split(".")[0], name.rpartition(".")[2]

    assert hasattr(OWNERS[name](), attribute), mend(name, library, files_with(attribute))


def test_every_private_attribute_in_the_code_has_its_row_above() -> None:
    listed = {name.rpartition(".")[2] for name in OWNERS} | {"_labels"}
    used = {name for tree in SOURCES.values() for name in foreign_attributes(tree)} - own_attributes()
    modules = {name.module.rpartition(".")[2] for name, _ in IMPORTS}

    assert {name: files_with(name) for name in used - listed - modules} == {}
    assert sorted(listed - {name for tree in SOURCES.values() for name in foreign_attributes(tree)}) == [], (
        "no code uses these any more: delete their rows"
    )


def test_a_trial_can_be_taken_back_from_the_memory_storage() -> None:
    study = optuna.create_study()
    storage: Any = study._storage
    number = study.ask().number

    trials = storage._studies[study._study_id].trials
    del storage._trial_id_to_study_id_and_number[storage._max_trial_id]
    trials.pop()
    storage._max_trial_id -= 1

    assert study.ask().number == number, mend(
        "InMemoryStorage as it was", "optuna", files_with("_max_trial_id")
    )


@pytest.mark.parametrize("table", SQL_COLUMNS)
def test_columns_that_are_read_by_sql_are_in_optunas_tables(table: str) -> None:
    columns = set(models.BaseModel.metadata.tables[table].columns.keys())

    assert set(SQL_COLUMNS[table]) <= columns, mend(
        f"{table} with these columns", "optuna", ["analysis/reading.py"]
    )


def test_ray_still_has_its_switch_for_staying_on_loopback_and_its_log_folder() -> None:
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in inspect.getsource(ray_constants), mend(
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray.__name__, ["cluster/ray_tune/session.py"]
    )
    assert hasattr(Node, "get_logs_dir_path"), mend(
        "Node.get_logs_dir_path", "ray", ["cluster/jobs/fetch.py"]
    )


@pytest.mark.parametrize("dataset", TORCHVISION_LISTS)
def test_torchvisions_sets_keep_their_lists_of_files(dataset: str) -> None:
    source = inspect.getsource(getattr(datasets, dataset))

    for name in TORCHVISION_LISTS[dataset]:
        assert f"self.{name} = " in source or f"self.{name}:" in source, mend(
            f"{dataset}.{name}", "torchvision", files_with("_labels")
        )
