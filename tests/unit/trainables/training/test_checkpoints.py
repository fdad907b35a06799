"""Checkpoints are whole or absent, and a worker that was replaced writes none."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.study_layout import TrialPaths
from trainables.training.checkpoints import (
    Superseded,
    begin_attempt,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_result,
)


def state_of(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "weights": {"layer": torch.full((1000,), float(epoch))}}


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(TrialPaths(tmp_path / "7"), state_of(epoch), attempt=1)

    state = load_checkpoint(TrialPaths(tmp_path / "7"))

    assert state is not None
    assert state["epoch"] == 3
    assert torch.equal(state["weights"]["layer"], torch.full((1000,), 3.0))


def test_a_trial_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(TrialPaths(tmp_path / "7")) is None


@pytest.mark.parametrize("kept_bytes", [0, 100, 2000])
def test_a_torn_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path, kept_bytes: int) -> None:
    for epoch in (1, 2):
        save_checkpoint(TrialPaths(tmp_path), state_of(epoch), attempt=1)
    newest = TrialPaths(tmp_path).checkpoint
    newest.write_bytes(newest.read_bytes()[:kept_bytes])

    state = load_checkpoint(TrialPaths(tmp_path))

    assert state is not None
    assert state["epoch"] == 1


def test_a_torn_checkpoint_alone_is_none(tmp_path: Path) -> None:
    save_checkpoint(TrialPaths(tmp_path), state_of(1), attempt=1)
    TrialPaths(tmp_path).checkpoint.write_bytes(b"torn")

    assert load_checkpoint(TrialPaths(tmp_path)) is None


def test_a_kill_between_the_two_renames_costs_nothing_older(tmp_path: Path) -> None:
    save_checkpoint(TrialPaths(tmp_path), state_of(1), attempt=1)
    TrialPaths(tmp_path).checkpoint.rename(TrialPaths(tmp_path).previous_checkpoint)

    state = load_checkpoint(TrialPaths(tmp_path))

    assert state is not None
    assert state["epoch"] == 1


def test_an_attempt_that_was_replaced_cannot_write(tmp_path: Path) -> None:
    save_checkpoint(TrialPaths(tmp_path), state_of(5), attempt=1)
    begin_attempt(TrialPaths(tmp_path), 2)

    with pytest.raises(Superseded, match="attempt 1"):
        save_checkpoint(TrialPaths(tmp_path), state_of(6), attempt=1)

    state = load_checkpoint(TrialPaths(tmp_path))
    assert state is not None
    assert state["epoch"] == 5


def test_an_older_attempt_cannot_begin(tmp_path: Path) -> None:
    begin_attempt(TrialPaths(tmp_path), 3)

    with pytest.raises(Superseded):
        begin_attempt(TrialPaths(tmp_path), 2)


def test_a_checkpoint_may_hold_an_optimizer_and_nothing_that_runs_code(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()

    save_checkpoint(TrialPaths(tmp_path / "good"), {"optimizer": optimizer.state_dict()}, attempt=1)
    save_checkpoint(TrialPaths(tmp_path / "bad"), {"path": tmp_path}, attempt=1)

    loaded = load_state(TrialPaths(tmp_path / "good").checkpoint)
    assert loaded is not None
    optimizer.load_state_dict(loaded["optimizer"])
    with pytest.raises(pickle.UnpicklingError):
        load_state(TrialPaths(tmp_path / "bad").checkpoint)


@pytest.mark.parametrize("broken", ["model", "predictions"])
def test_a_result_that_cannot_be_written_leaves_no_file_behind(tmp_path: Path, broken: str) -> None:
    result: dict[str, Any] = {"model": {"epoch": 1}, "predictions": {"ids": np.arange(3)}}
    result[broken] = {"unpicklable": lambda: None}

    with pytest.raises(AttributeError):
        save_result(TrialPaths(tmp_path), **result, attempt=1)

    assert {path.name for path in tmp_path.iterdir()} == {".lock", "attempt"}


def test_an_attempt_that_was_replaced_cannot_overwrite_the_newer_ones_result(tmp_path: Path) -> None:
    save_result(TrialPaths(tmp_path), model={"epoch": 9}, predictions={"ids": np.arange(9)}, attempt=2)

    with pytest.raises(Superseded, match="attempt 1"):
        save_result(TrialPaths(tmp_path), model={"epoch": 3}, predictions={"ids": np.arange(3)}, attempt=1)

    model = load_state(TrialPaths(tmp_path).weights)
    assert model is not None
    assert model["epoch"] == 9
    with np.load(tmp_path / "predictions.npz") as file:
        assert len(file["ids"]) == 9


def test_what_a_killed_writer_left_half_done_is_removed_by_the_next_attempt(tmp_path: Path) -> None:
    save_checkpoint(TrialPaths(tmp_path), state_of(1), attempt=1)
    (tmp_path / ".checkpoint.pt.0123456789abcdef.part").write_bytes(b"half")

    begin_attempt(TrialPaths(tmp_path), 2)

    assert {path.name for path in tmp_path.iterdir()} == {".lock", "attempt", "checkpoint.pt"}
