"""predict spreads over a Ray cluster, keeps the order, and goes on after a kill."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from cluster.ray_tune.session import Session
from serving.__main__ import main
from serving.prediction import spread
from tests.tiny_models import write_noise, write_tiny_model

pytestmark = pytest.mark.slow


def read(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_cluster_answers_as_this_machine_does_and_goes_on(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_tiny_model(tmp_path / "model").directory)
    photos = tmp_path / "photos"
    for number in range(50):
        write_noise(photos / f"{number:02} [x].png", seed=number, side=24)
    (photos / "30 bad.png").write_bytes(b"bad")
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes((photos / "00 [x].png").read_bytes())
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    monkeypatch.setattr(spread, "PHOTOS_AT_ONCE", 30)
    words = ["predict", model, str(photos), str(photos / "gone.png"), "--out"]

    assert main([*words, str(here)]) == 0
    assert main([*words, str(there), "--address", "auto", "--workers", "2", "--batch-size", "7"]) == 0

    whole = read(there)
    assert [row["path"] for row in whole] == [row["path"] for row in read(here)]
    for mine, other in zip(read(here), whole, strict=True):
        assert (mine["label"], mine["error"], mine["set"]) == (other["label"], other["error"], other["set"])
        assert not mine["label"] or float(mine["probability"]) == pytest.approx(
            float(other["probability"]), abs=1e-6
        )
    lines = there.read_bytes().splitlines(keepends=True)
    there.write_bytes(b"".join(lines[:30]) + lines[30][:5])
    assert main([*words, str(there), "--address", "auto"]) == 0
    assert [row["path"] for row in read(there)] == [row["path"] for row in whole]


def test_a_cluster_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spread.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    model = str(write_tiny_model(tmp_path / "model").directory)
    photo = write_noise(tmp_path / "a.png", seed=0)

    assert main(["predict", model, str(photo), "--address", "127.0.0.1:1"]) == 2

    error = capsys.readouterr().err
    assert "no Ray cluster answers at --address 127.0.0.1:1" in error
