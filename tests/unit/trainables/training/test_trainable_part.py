"""A compiled module computes the same logits and gradients, or goes on uncompiled after a warning."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.training.trainable_part import compiled


@pytest.fixture(autouse=True)
def empty_compiler_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_module_computes_the_same(caplog: pytest.LogCaptureFixture, full: bool) -> None:
    if not full:
        pytest.skip("the compiler takes half a minute; --full runs it")
    plain, fast = make_module(), make_module()
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))

    expected = plain(inputs)
    expected.square().sum().backward()
    with caplog.at_level(logging.WARNING):
        found = compiled(fast)(inputs)
    found.square().sum().backward()

    assert not [record for record in caplog.records if "--compile" in record.getMessage()]
    torch.testing.assert_close(found, expected)
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_without_a_compiler_the_module_goes_on_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    from torch._inductor import config

    module = make_module()
    inputs = torch.randn(5, 6)

    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        caplog.at_level(logging.WARNING, logger="trainables"),
    ):
        forward = compiled(module)
        logits = [forward(inputs), forward(inputs)]

    assert torch.equal(logits[0], module(inputs))
    assert torch.equal(logits[1], logits[0])
    warnings = [record.getMessage() for record in caplog.records if "--compile" in record.getMessage()]
    assert len(warnings) == 1
    assert "going on uncompiled" in warnings[0]


def test_a_worker_compiles_its_tenth_trial_as_it_did_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch gives a function up after eight versions, and each trial brings its own of one function."""
    graphs: list[Any] = []
    keep = lambda graph, _: graphs.append(graph) or graph  # noqa: E731
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))

    class Part(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(6, width)

        def forward(self, features: Tensor) -> Tensor:
            return self.layer(features)

    for trial in range(1, 11):
        forward, inputs = compiled(Part(width=trial)), torch.zeros(2, 6)
        forward(inputs)
        with torch.no_grad():
            forward(inputs)
        assert len(graphs) == 2 * trial


def test_a_fault_of_the_module_itself_is_raised() -> None:
    class Faulty(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features @ torch.zeros(7, 7)

    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size mismatch"):
        compiled(Faulty())(torch.zeros(2, 6))
