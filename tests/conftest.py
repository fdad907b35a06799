"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.session import Session, open_session


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Ray with two CPUs, once for all tests: it takes several seconds to start."""
    with open_session(cpus=2, gpus=0, cache_dir=tmp_path_factory.mktemp("cache")) as session:
        yield session
