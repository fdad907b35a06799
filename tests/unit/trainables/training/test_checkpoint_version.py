"""A checkpoint that another version of the program has written is not continued."""

from __future__ import annotations

from pathlib import Path

from tests.small_study import make_settings, make_small_study
from tests.tiny_data import make_lease
from trainables.run import TrialRun

LEASE = make_lease(regime="linear_probe", unfreeze_depth=0)


def test_a_trial_begins_anew_where_another_version_has_written_its_checkpoint(tmp_path: Path) -> None:
    settings = make_settings(make_small_study(tmp_path), image_size=32)
    stopped = TrialRun(LEASE, settings)
    stopped.run_epoch()
    state = stopped.checkpoint_state()
    older = {name: value for name, value in state.items() if name != "format"}
    older["best"] = {"epoch": 1, "probabilities": None}
    continued, anew = TrialRun(LEASE, settings), TrialRun(LEASE, settings)

    continued.continue_from(state)
    anew.continue_from(older)

    assert (continued.epoch, anew.epoch) == (1, 0)
    assert len(continued.records) == 1 and anew.records == []
