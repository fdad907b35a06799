"""More epochs are advised only where the best trial's last epoch was better than all before it."""

from pathlib import Path

import pytest

from analysis.reading import load_study
from analysis.report.answer import suggest_next_steps
from analysis.report.findings import find_out
from tests.study_factory import FakeTrial, make_study


@pytest.mark.parametrize("rule", ["last", "lowest_loss", "best"])
@pytest.mark.parametrize(
    ("curve", "advised"),
    [([0.5, 0.6, 0.7, 0.8], True), ([0.5, 0.8, 0.7, 0.75], False), ([0.5, 0.6, 0.7], False)],
)
def test_whichever_epoch_is_kept(tmp_path: Path, rule: str, curve: list[float], advised: bool) -> None:
    trial = FakeTrial(curve=curve, config={"kept_epoch": rule, "max_epochs": 4})
    study = load_study(make_study(tmp_path / "s", [trial]))

    steps = suggest_next_steps(find_out(study))

    assert any(step.startswith("More epochs") for step in steps) == advised
