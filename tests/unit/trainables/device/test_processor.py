"""A worker's process keeps the memory it has freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
