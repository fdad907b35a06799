"""The cost model: what is worth caching, and the figures that processes share."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainables.activations import cost_model
from trainables.activations.cost_model import (
    CostModel,
    Costs,
    Cut,
    DiskSpeed,
    available_memory_bytes,
    measure_disk,
)

CUT = Cut(backbone="lite0", depth=1, image_size=128, device="cpu")
FAST_GPU = replace(CUT, device="some GPU")
SPEED = DiskSpeed(write=1e9, memory_read=5e9, disk_read=5e8)
POOLED_BYTES, WIDE_BYTES = 1280 * 2, 24 * 112 * 112 * 2


@pytest.fixture(autouse=True)
def known_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_model, "measure_disk", lambda _root: SPEED)
    monkeypatch.setattr(cost_model, "measure_transfer", lambda: 1e10)
    monkeypatch.setattr(cost_model, "available_memory_bytes", lambda: 10**9)


def make_model(root: Path, *, images_per_second: float, cut: Cut = CUT) -> CostModel:
    model = CostModel(root)
    model.record(cut, images=100, seconds=100 / images_per_second)
    return model


def record_some(root: Path, seed: int) -> None:
    model = CostModel(root)
    for number in range(20):
        model.record(replace(CUT, depth=seed), images=1, seconds=0.01)
        if number % 5 == 0:
            model.save()
    model.save()


def test_pooled_features_of_a_slow_backbone_are_worth_caching(tmp_path: Path) -> None:
    model = make_model(tmp_path, images_per_second=140)

    assert model.worth_caching(CUT, row_bytes=POOLED_BYTES, num_rows=600, uses=2)


def test_pooled_features_are_worth_caching_on_a_fast_gpu_too(tmp_path: Path) -> None:
    model = make_model(tmp_path, images_per_second=10_000, cut=FAST_GPU)

    assert model.worth_caching(FAST_GPU, row_bytes=POOLED_BYTES, num_rows=600, uses=2)


def test_wide_early_maps_on_a_fast_gpu_are_not_worth_caching(tmp_path: Path) -> None:
    model = make_model(tmp_path, images_per_second=10_000, cut=FAST_GPU)

    assert not model.worth_caching(FAST_GPU, row_bytes=WIDE_BYTES, num_rows=600, uses=100)


def test_what_outgrows_the_memory_is_judged_by_the_disk(tmp_path: Path) -> None:
    model = make_model(tmp_path, images_per_second=1000)

    assert model.worth_caching(CUT, row_bytes=WIDE_BYTES, num_rows=100, uses=20)
    assert not model.worth_caching(CUT, row_bytes=WIDE_BYTES, num_rows=1000, uses=20)


def test_nothing_that_is_used_once_is_worth_caching(tmp_path: Path) -> None:
    model = make_model(tmp_path, images_per_second=1)

    assert not model.worth_caching(CUT, row_bytes=1, num_rows=1, uses=1)


@pytest.mark.parametrize("uses", [2, 3, 10, 1000])
def test_caching_is_only_chosen_where_it_is_faster_in_all(uses: int) -> None:
    for compute, write, read in np.random.default_rng(uses).lognormal(0, 2, (200, 3)).tolist():
        chosen = Costs(compute=compute, write=write, read=read).worth_caching(uses)

        assert not chosen or compute + write + uses * read < uses * compute


def test_an_unknown_cut_is_timed_by_its_second_short_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.2, 0.02])
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    monkeypatch.setattr(cost_model, "time", clock)

    def probe() -> int:
        now[0] += next(seconds)
        return 10

    model = CostModel(tmp_path)

    assert model.worth_caching(CUT, row_bytes=POOLED_BYTES, num_rows=600, probe=probe)
    assert model.compute_seconds(CUT) == pytest.approx(0.002)
    assert next(seconds, None) is None


def test_a_known_cut_is_not_probed_again_by_another_process(tmp_path: Path) -> None:
    make_model(tmp_path, images_per_second=140).save()

    def probe() -> int:
        raise AssertionError("was timed before")

    assert CostModel(tmp_path).worth_caching(CUT, row_bytes=POOLED_BYTES, num_rows=600, probe=probe)


def test_an_unknown_cut_without_a_probe_is_not_cached(tmp_path: Path) -> None:
    assert not CostModel(tmp_path).worth_caching(CUT, row_bytes=1, num_rows=1)


def test_one_slow_chunk_does_not_change_the_figure(tmp_path: Path) -> None:
    model = CostModel(tmp_path)

    for seconds in (0.1, 0.1, 50.0, 0.1):
        model.record(CUT, images=10, seconds=seconds)

    assert model.compute_seconds(CUT) == pytest.approx(0.01)


def test_a_timed_compute_gives_the_same_rows_and_a_figure(tmp_path: Path) -> None:
    model = CostModel(tmp_path)

    rows = model.timed(CUT, lambda start, stop: np.arange(start, stop))(3, 7)

    assert rows.tolist() == [3, 4, 5, 6]
    assert model.compute_seconds(CUT) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1, "compute": 3}', "null"])
def test_a_broken_file_is_measured_again(tmp_path: Path, content: str) -> None:
    CostModel(tmp_path).path.write_text(content)

    model = make_model(tmp_path, images_per_second=140)
    model.save()

    assert json.loads(model.path.read_text())["compute"][CUT.name] == [pytest.approx(1 / 140)]


def test_a_folder_that_cannot_be_written_means_no_caching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_model, "measure_disk", measure_disk)
    (tmp_path / "file").write_text("in the way")

    model = make_model(tmp_path / "file" / "cache", images_per_second=1)

    assert not model.worth_caching(CUT, row_bytes=1, num_rows=1, uses=10)


def test_a_real_disk_gives_real_figures(tmp_path: Path) -> None:
    speed = measure_disk(tmp_path)

    assert min(speed.write, speed.memory_read, speed.disk_read) > 1e6
    assert not list(tmp_path.iterdir())
    assert available_memory_bytes() > 10**8


@pytest.mark.slow
def test_processes_share_their_figures(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=record_some, args=(tmp_path, seed)) for seed in range(3)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    model = CostModel(tmp_path)
    assert [model.compute_seconds(replace(CUT, depth=seed)) for seed in range(3)] == [0.01] * 3
