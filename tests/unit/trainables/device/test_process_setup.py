"""A worker's process keeps the memory it has freed, and collects no garbage during imports."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from trainables.device.process_setup import paused_collector

_COUNT_FAULTS = """
import resource, torch
from trainables.device.process_setup import prepare_processor

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
prepare_processor(1)
warm = [faults() for _ in range(3)]
print(returned, faults(), torch.get_num_threads(), float(torch.tensor(1e-40) * 1))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_freed_block_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNT_FAULTS], capture_output=True, text=True, check=True)

    returned, kept, threads, denormal = done.stdout.split()

    assert int(returned) > 100 and int(kept) < int(returned) / 10
    assert threads == "1" and float(denormal) == 0.0


def test_the_collector_is_paused_and_goes_on_even_after_an_error() -> None:
    before = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), paused_collector():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
