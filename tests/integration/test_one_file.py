"""A backbone, a regime, a policy and a search space are each added by touching one file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from filecmp import dircmp
from pathlib import Path
from typing import Any

import pytest

from tests.small_study import make_settings, make_small_study

ROOT = Path(__file__).parents[2]
PACKAGES = ("search_spaces", "trainables")
SPACE = '''"""A space of our own."""

from search_spaces._contract import Defaults, Recipe

BACKBONES = ("our_backbone",)
DEFAULTS = Defaults(trials=2, max_epochs=2, image_size=32)


def space(trial, *, backbones, max_epochs):
    trial.suggest_categorical("backbone", backbones)
    trial.suggest_categorical("policy", ("none", "our_policy"))
    return {"regime": "our_regime", "unfreeze_depth": 1}


def recipes(facts, *, backbones, max_epochs):
    config = {"backbone": backbones[0], "policy": "our_policy"}
    return [Recipe(name="ours", source="us", config=config)]
'''
REGIME = '''"""A regime of our own: the top stage, whatever the depth."""

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    fixed = {"unfreeze_depth": 1}
'''
PROPOSE = """
import json
from optuna.trial import FixedTrial
from search_spaces import load_space
space = load_space("our_space")
(recipe,) = space.recipes(None, backbones=space.backbones, max_epochs=1)
print(json.dumps(space.propose(FixedTrial(recipe.config), backbones=space.backbones, max_epochs=1)))
"""
TRAIN = """
import json, sys
from trainables.lease import start_lease
leased = start_lease(json.loads(sys.argv[1]))[0]
report = leased.advance()[-1]
run = leased.run
policy = run.inputs["train"].view.policy
print(json.dumps([report.outcome, run.backbone.timm_name, policy, run.phase.depth]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the two packages, to be edited, beside one to compare it with."""
    for package in PACKAGES:
        for copy in ("before", "after"):
            ignored = shutil.ignore_patterns("__pycache__", "*.tmp")
            shutil.copytree(ROOT / package, tmp_path / copy / package, ignore=ignored)
    return tmp_path / "after"


def add_space(checkout: Path) -> None:
    (checkout / "search_spaces" / "our_space.py").write_text(SPACE)


def add_regime(checkout: Path) -> None:
    (checkout / "trainables" / "training" / "regimes" / "our_regime.py").write_text(REGIME)


def add_backbone(checkout: Path) -> None:
    row = '        Backbone(name="our_backbone", timm_name="resnet10t.c3_in1k"),\n'
    insert(checkout / "trainables/model/backbones.py", row, before='        Backbone(name="resnet18"')


def add_policy(checkout: Path) -> None:
    row = '    "our_policy": Policy(flip=True, rotation=5),\n'
    insert(checkout / "trainables/data/policies.py", row, before='    "flip": Policy(')


ADDITIONS = (add_space, add_regime, add_backbone, add_policy)


def insert(path: Path, row: str, *, before: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, row + before))


def run(checkout: Path, code: str, *arguments: str) -> Any:
    """What the code prints last, as JSON, where the copy is what is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def touched(compared: dircmp[str]) -> list[str]:
    """Files that are not as they were, below one folder."""
    changed = [*compared.diff_files, *compared.left_only, *compared.right_only]
    return changed + [name for folder in compared.subdirs.values() for name in touched(folder)]


@pytest.mark.parametrize("add", ADDITIONS)
def test_one_more_touches_one_file(add: Callable[[Path], None], checkout: Path) -> None:
    add(checkout)

    before = checkout.with_name("before")
    changed = [name for package in PACKAGES for name in touched(dircmp(before / package, checkout / package))]
    assert len(changed) == 1


@pytest.mark.slow
def test_what_was_added_is_found_and_trains(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    study = make_small_study(tmp_path_factory.mktemp("study"))
    for add in ADDITIONS:
        add(checkout)

    config = run(checkout, PROPOSE)
    lease = {"trial": 0, "attempt": 1, "done_epochs": 0, "config": config}
    settings = make_settings(study, image_size=32).as_values()
    built = run(checkout, TRAIN, json.dumps({"trials": [lease], "settings": settings}))

    assert built == ["complete", "resnet10t.c3_in1k", "our_policy", 1]
