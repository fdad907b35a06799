"""What the tests of the commands share."""

from __future__ import annotations

import pytest

import tune


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tune.py start Ray where a search needs it, and not before: none of these tests comes so far."""
    monkeypatch.setattr(tune, "start_ray_early", lambda _: None)
