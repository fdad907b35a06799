"""Reads how long something may take, as people write it."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str) -> float:
    """Seconds of "2h", "90m", "45s", "1h30m" or a plain number of seconds.

    Raises:
        ValueError: it is none, or no time at all.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(number or 0) for number in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"--time-budget must be a duration like 2h, 90m or 45s, got {text!r}")
    return total
