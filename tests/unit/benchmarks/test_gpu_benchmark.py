"""The table of a GPU, measured on this processor with images of a few pixels: every part really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.accelerator.arithmetic import Arithmetic, computing, lay_out, variants
from benchmarks.accelerator.study import Task, caching, epoch_batches, start_trial, write_study
from benchmarks.accelerator.timing import Clock, count_flops
from trainables.activations.shared import drop_backbones
from trainables.model.backbones import find_backbone
from trainables.model.networks import make_backbone

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--quick", "--seconds", "0.01", "--images", "16", "--image-size", "32"]
TINY += ["--batch-size", "8", "--heads", "1", "2"]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A trial sets the number of threads of its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    drop_backbones()


@pytest.fixture
def task(tmp_path: Path) -> Task:
    task = Task(folder=tmp_path / "study", device=CPU, num_images=16, image_size=32, batch_size=8, threads=1)
    write_study(task)
    return task


def run_benchmark(*flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert gpu.main([*TINY, *flags]) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_every_part_but_sharing_has_rates_or_the_reason_why_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "gpu.json"
    parts = [part for part in gpu.PARTS if part != "sharing"]

    found = run_benchmark("--parts", *parts, "--json", str(file), capsys=capsys)

    assert json.loads(file.read_text()) == found
    rows = found["rows"]
    assert {row["part"] for row in rows} == {"limits", "frozen passes", "training", "heads", "batches"}
    for row in rows:
        assert (row["samples"] >= 3 and 0 < row["least"] <= row["median"] <= row["most"]) or row["note"], row
    (copies,) = (row for row in rows if row["what"] == "host to device")
    assert copies["note"] == "a CPU has no memory of its own"
    shares = [row["share"] for row in rows if row["part"] in ("frozen passes", "training") and row["samples"]]
    assert shares and all(share > 0 for share in shares)


@pytest.mark.slow
def test_two_trials_share_the_device_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_benchmark("--parts", "sharing", "--together", "1", "2", "--depths", "0", capsys=capsys)

    one, two = found["rows"]
    assert one["median"] > 0 and two["median"] > 0
    assert two["note"].endswith("times one")


def test_without_a_gpu_one_line_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert gpu.main([]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks gpu: torch ")
    assert line.endswith("--device cpu --quick tries the benchmark out on this processor")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "0"], "must be positive"),
        (["--batch-size", "99", "--images", "8"], "more than --images 8"),
    ],
)
def test_wrong_numbers_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--device", "cpu", "--quick", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_cell_that_fails_is_a_row_and_the_next_one_is_measured() -> None:
    clock = Clock(device=CPU, seconds=0.0)

    def fail() -> None:
        raise RuntimeError("no kernel\nof this kind")

    clock.attempt("part", "one", fail)
    clock.attempt(
        "part", "other", lambda: clock.rate("part", "other", lambda: None, amount=1, unit="calls/s")
    )

    failed, measured = clock.rows
    assert failed.failed and failed.note == "RuntimeError: no kernel"
    assert not measured.failed and measured.samples >= 3


def test_operations_of_a_network_are_twice_its_known_multiply_adds() -> None:
    backbone = find_backbone("lite0")
    network = make_backbone(backbone, image_size=224).eval()

    with torch.no_grad():
        flops = count_flops(lambda: network(torch.zeros(1, 3, 224, 224)))

    assert flops == pytest.approx(2e9 * backbone.giga_multiply_adds, rel=0.02)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_gradients_of_a_grouped_convolution_take_twice_the_operations_of_its_pass(groups: int) -> None:
    convolution = nn.Conv2d(16, 16, 3, padding=1, groups=groups, bias=False)
    images = torch.zeros(2, 16, 8, 8, requires_grad=True)

    forward = count_flops(lambda: convolution(images))
    both = count_flops(lambda: convolution(images).sum().backward())

    assert forward == 2 * (2 * 16 * 8 * 8) * (16 // groups) * 9
    assert both == 3 * forward


def test_each_arithmetic_changes_how_a_trial_computes_and_nothing_afterwards(task: Task) -> None:
    def features(arithmetic: Arithmetic) -> torch.Tensor:
        with computing(arithmetic), caching(False):
            run = start_trial(task.settings(), task.config("lite0", 0))
            lay_out(run.classifier, arithmetic)
            run.classifier.eval()
            weight = run.classifier.backbone.get_parameter("conv_stem.weight")
            assert weight.is_contiguous(memory_format=torch.channels_last) == arithmetic.channels_last
            images, _ = next(epoch_batches(run))
            result = run.classifier.prefix_features(images)
        drop_backbones()
        return result

    plain = features(Arithmetic(precision="float32"))
    first = features(Arithmetic(precision="float32", channels_last=False))
    rounded = features(Arithmetic(precision="bfloat16"))

    assert torch.allclose(plain, first, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
    off = float((rounded - plain).abs().max() / plain.abs().max())
    assert 1e-4 < off < 0.1
    assert torch.equal(features(variants(CPU)[0]), plain)
