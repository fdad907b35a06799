"""A portfolio's file is read back as it was, and refused in one line where it is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contract.portfolio import Portfolio, PortfolioEntry, shared_values
from contract.trial_config import config_as_dict, make_trial_config

CONFIG = {"backbone": "lite0", "learning_rate": 0.002, "policy": "light", "unfreeze_depth": "all"}


def write(folder: Path) -> Path:
    entry = PortfolioEntry(name="trial 3 of flowers", values=CONFIG)
    path = folder / "shared.json"
    Portfolio(spaces=("demo",), metric="val_accuracy", num_sets=2, num_trials=9, entries=(entry,)).save(path)
    return path


def test_a_portfolio_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = Portfolio.load(write(tmp_path))

    assert (found.spaces, found.metric, found.num_sets, found.num_trials) == (("demo",), "val_accuracy", 2, 9)
    assert [(entry.name, entry.values) for entry in found.entries] == [("trial 3 of flowers", CONFIG)]
    assert found.entries[0].config == config_as_dict(make_trial_config(CONFIG))


def test_only_what_differs_from_the_defaults_is_shared() -> None:
    assert shared_values(config_as_dict(make_trial_config(CONFIG)) | {"unknown": 1}) == CONFIG


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"portfolio": 9}, "format 9"),
        ({"entries": None}, "damaged"),
        ({"entries": [{"name": "a"}]}, "'values' is missing"),
        ({"entries": [{"name": "a", "values": {"backbone": "lite0", "learning_rat": 1}}]}, "learning_rat"),
        ({"entries": [{"name": "a", "values": {"backbone": "lite0", "learning_rate": -1}}]}, "learning_rate"),
        ({"entries": [{"name": "a", "values": {"backbone": "lite0", "learning_rate": "x"}}]}, "damaged"),
        ({"entries": [{"name": "a", "values": {}}]}, "backbone"),
        ({"entries": [{"name": "a", "values": CONFIG}] * 2}, "two entries"),
        ({"spaces": 3}, "damaged"),
        ({"num_sets": None}, "damaged"),
    ],
)
def test_a_damaged_portfolio_is_refused_in_one_line(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ValueError, match=expected) as caught:
        Portfolio.load(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "{}", '{"study": "s"}', b"\xff\xfe"])
def test_another_file_is_no_portfolio(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)

    with pytest.raises(ValueError, match="portfolio"):
        Portfolio.load(path)
    with pytest.raises(ValueError, match="No such file"):
        Portfolio.load(tmp_path / "missing.json")
