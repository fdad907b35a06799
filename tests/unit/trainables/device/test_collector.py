"""The garbage collector rests during imports only."""

from __future__ import annotations

import gc

import pytest

from trainables.device.collector import paused_collector


def test_it_rests_meanwhile_and_goes_on_behind_even_after_an_error() -> None:
    before = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), paused_collector():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
