"""Fixtures that several test files share."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Torch reads this at import; two workers with a thread for each core take each other's cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from cluster.ray_tune.session import Session, open_session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run what takes too long for every push")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start Ray: they mostly wait, and the short ones fill what they leave."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the unbounded versions of the tests run; a test skips, or takes a larger part, by it."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Ray with two CPUs, once for all tests: it takes several seconds to start."""
    with open_session(cpus=2, gpus=0, cache_dir=tmp_path_factory.mktemp("cache")) as session:
        yield session


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Seed the global generators: what a test draws (weights, dropped paths) must not differ between runs."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the server of another test or of the caller: MLflow sets the variable, and flags honour it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
