"""Wilson's interval is that of the textbooks, also at its ends."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from contract.intervals import wilson


def test_wilson_stays_within_0_and_1() -> None:
    assert wilson(0, 10)[0] == 0.0
    assert 0.99 < wilson(10, 10)[1] <= 1.0
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert wilson(979, 1000) == pytest.approx((0.9681097, 0.9862242), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("total", [1, 2, 7, 100, 12345])
def test_wilson_is_what_scipy_computes(total: int) -> None:
    for hits in {0, 1, total // 3, total - 1, total}:
        interval = binomtest(hits, total).proportion_ci(method="wilson")

        assert wilson(hits, total) == pytest.approx((interval.low, interval.high), abs=1e-12)
