"""The replay of past studies leaves the new study's data set out, and takes over what tune.py would."""

from __future__ import annotations

import json

import pytest

from benchmarks.portfolio import COLD, STARTS, Start, main, taken_over
from benchmarks.quality.rows import BACKBONES, recipes


@pytest.mark.parametrize("way", ["likeness", "portfolio"])
def test_nothing_is_known_of_the_set_that_is_left_out(way: str) -> None:
    found = taken_over(Start(way=way, share=1 / 2), "beans", 0, trials=8, past=12, backbones=BACKBONES)

    published = [recipe.config for recipe in recipes()]
    assert 1 <= len(found) <= 4
    assert not any("beans" in name for name, _ in found)
    assert not any(dict(params).items() <= config.items() for _, params in found for config in published)


def test_cold_takes_nothing_over() -> None:
    assert taken_over(STARTS[COLD], "beans", 0, trials=8, past=12, backbones=BACKBONES) == []


def test_the_command_prints_a_table_and_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--seeds", "1", "--trials", "4", "--past", "6", "--starts", "portfolio, 1/2"])

    lines = capsys.readouterr().out.strip().splitlines()
    rows = json.loads(lines[-1])["4 trials"]
    assert code == 0
    assert [row["start"] for row in rows] == [COLD, "portfolio, 1/2"]
    assert rows[0]["difference"] == 0
