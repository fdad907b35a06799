"""Every published system has a recipe, facts to compare it with, and a row in the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from search_spaces import DataFacts, load_space, names
from search_spaces._systems import SYSTEMS, list_systems
from tests.integration import test_systems_run
from tests.published_systems import PUBLISHED
from trainables.model.backbones import find_backbone
from trainables.systems import PROOF, check_config, load_systems, make_page, row_name

GROUPS = {"A": range(1, 12), "B": (*range(1, 13), 16), "C": range(1, 8), "D": range(1, 10), "E": range(1, 8)}
IDS = [f"{group}{number}" for group, numbers in GROUPS.items() for number in numbers]
PAGE = Path(__file__).parents[2] / "docs" / "systems.md"
FACTS = DataFacts(num_train=2_258, num_classes=5, median_pixels=240 * 320)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list_systems()


def test_every_trial_of_the_five_reports_is_listed() -> None:
    assert list(SYSTEMS) == IDS
    assert sorted(PUBLISHED) == sorted(IDS)


@pytest.mark.parametrize("system", IDS)
def test_a_system_has_as_many_recipes_as_were_published(system: str, rows: list[dict[str, Any]]) -> None:
    configs = [row["config"] for row in rows if row["id"] == system]

    distinct = [config for number, config in enumerate(configs) if config not in configs[:number]]

    assert len(distinct) >= len(PUBLISHED[system])


def test_every_row_of_the_table_is_a_test(rows: list[dict[str, Any]]) -> None:
    proof = getattr(test_systems_run, PROOF)
    tested = {
        row_name(row) for mark in proof.pytestmark if mark.name == "parametrize" for row in mark.args[1]
    }

    named = [row_name(row) for row in rows]

    assert set(named) == tested
    assert len(set(named)) == len(named)


def test_the_page_in_the_docs_is_what_the_catalogues_say() -> None:
    page = make_page(load_systems())

    assert PAGE.read_text(encoding="utf-8") == page, "run: python -m trainables systems > docs/systems.md"
    assert all(f"| {system} |" in page for system in IDS)


@pytest.mark.parametrize("name", names())
def test_a_space_names_only_backbones_regimes_and_policies_that_exist(name: str) -> None:
    space = load_space(name)

    recipes = space.recipes(FACTS, backbones=space.backbones, max_epochs=20)

    assert [find_backbone(backbone).name for backbone in space.backbones] == list(space.backbones)
    for recipe in recipes:
        trial: Any = FixedTrial(recipe.config)
        check_config(space.propose(trial, backbones=space.backbones, max_epochs=20))
