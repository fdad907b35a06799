"""Confidence intervals of shares."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""Quantile 0.975 of the normal distribution."""


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share: unlike p ± 2 s it stays within 0..1, even for none and all.

    Without a single case it is 0..1.
    """
    if not total:
        return 0.0, 1.0
    share, squared = hits / total, _Z**2
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    reach = _Z / (1 + squared / total) * math.sqrt(share * (1 - share) / total + squared / (4 * total**2))
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == total else middle + reach)
