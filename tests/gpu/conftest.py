"""The device that the tests of this folder use, and the table of what they measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.messages import StudySettings
from tests.small_study import make_settings, make_small_study
from trainables.device import memory

DEVICE_VARIABLE = "UNFREEZE_TEST_DEVICE"
MEASURED = pytest.StashKey[list[str]]()
TABLE = pytest.StashKey[list[tuple[str, str, str]]]()
Measure = Callable[[str], None]


@pytest.fixture
def device() -> str:
    """The accelerator; with UNFREEZE_TEST_DEVICE=cpu the CPU, on which the tests themselves can be tried."""
    wanted = os.environ.get(DEVICE_VARIABLE, "cuda")
    if wanted not in ("cuda", "cpu"):
        pytest.fail(f"{DEVICE_VARIABLE} must be cuda or cpu, got {wanted!r}")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return wanted


@pytest.fixture
def settings(device: str, tmp_path: Path) -> StudySettings:
    """A study of 20 training and 10 validation images with random weights, so nothing is downloaded."""
    plain = make_settings(make_small_study(tmp_path), image_size=32)
    return replace(plain, gpus_per_worker=float(device == "cuda"))


@pytest.fixture(autouse=True)
def without_reserves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A backbone that an earlier test left in this process would be freed before a batch is halved."""
    monkeypatch.setattr(memory, "_reserves", [])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Adds what was compared, and the figure found, to the test's line of the table."""
    return request.node.stash.setdefault(MEASURED, []).append


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        figures = "; ".join(item.stash.get(MEASURED, []))
        if report.skipped and isinstance(report.longrepr, tuple):
            figures = report.longrepr[2].removeprefix("Skipped: ")
        name = item.name.removeprefix("test_").replace("_", " ")
        item.config.stash[TABLE].append((report.outcome, name, f"{figures} ({report.duration:.1f} s)"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table at the end of `make gpu-check`; the ordinary suite does without it."""
    if config.inipath is None or config.inipath.name != "gpu.ini":
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    terminalreporter.section(f"GPU check: {card}, torch {torch.__version__}")
    for outcome, name, figures in config.stash[TABLE]:
        terminalreporter.write_line(f"{outcome:8} {name}: {figures}")
