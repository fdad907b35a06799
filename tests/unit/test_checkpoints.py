"""Checkpoints: whole or absent, and never from a worker that was replaced."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from trainables.training.checkpoints import (
    NEWEST,
    PREVIOUS,
    Superseded,
    begin_attempt,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)


def state_of(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "weights": {"layer": torch.full((1000,), float(epoch))}}


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / "7", state_of(epoch), attempt=1)

    state = load_checkpoint(tmp_path / "7")

    assert state is not None
    assert state["epoch"] == 3
    assert torch.equal(state["weights"]["layer"], torch.full((1000,), 3.0))


def test_a_trial_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "7") is None


@pytest.mark.parametrize("kept_bytes", [0, 100, 2000])
def test_a_torn_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path, kept_bytes: int) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, state_of(epoch), attempt=1)
    newest = tmp_path / NEWEST
    newest.write_bytes(newest.read_bytes()[:kept_bytes])

    state = load_checkpoint(tmp_path)

    assert state is not None
    assert state["epoch"] == 1


def test_a_torn_checkpoint_alone_is_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_of(1), attempt=1)
    (tmp_path / NEWEST).write_bytes(b"torn")

    assert load_checkpoint(tmp_path) is None


def test_a_kill_between_the_two_renames_costs_nothing_older(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_of(1), attempt=1)
    (tmp_path / NEWEST).rename(tmp_path / PREVIOUS)

    state = load_checkpoint(tmp_path)

    assert state is not None
    assert state["epoch"] == 1


def test_an_attempt_that_was_replaced_cannot_write(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_of(5), attempt=1)
    begin_attempt(tmp_path, 2)

    with pytest.raises(Superseded, match="attempt 1"):
        save_checkpoint(tmp_path, state_of(6), attempt=1)

    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["epoch"] == 5


def test_an_older_attempt_cannot_begin(tmp_path: Path) -> None:
    begin_attempt(tmp_path, 3)

    with pytest.raises(Superseded):
        begin_attempt(tmp_path, 2)


def test_a_checkpoint_may_hold_an_optimizer_and_nothing_that_runs_code(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()

    save_state(tmp_path / "good.pt", {"optimizer": optimizer.state_dict()})
    save_state(tmp_path / "bad.pt", {"path": tmp_path})

    loaded = load_state(tmp_path / "good.pt")
    assert loaded is not None
    optimizer.load_state_dict(loaded["optimizer"])
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path / "bad.pt")


def test_a_write_that_fails_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        save_state(tmp_path / "model.pt", {"unpicklable": lambda: None})

    assert list(tmp_path.iterdir()) == []
