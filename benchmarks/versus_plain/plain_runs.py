"""Runs of the plain side, kept so that no list of trials is run more often than asked: it takes the hours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.inputs import Trial
from benchmarks.versus_plain.sides import Sides, hardware

Run = dict[str, Any]


class PlainRuns:
    """By what was run: cases may begin with the same trials, and an earlier command may have run them."""

    def __init__(self, sides: Sides, *, repeats: int, reuse: Path | None = None) -> None:
        """`reuse`: what an earlier command wrote with --json.

        Raises:
            ValueError: it cannot be read, or was measured on another machine.
        """
        self.runs: dict[str, list[Run]] = {}
        """Of this command and of the earlier one."""
        self._sides, self._repeats, self._reuse = sides, repeats, reuse
        self._earlier: set[str] = set()
        if reuse is not None:
            self.runs = _read(reuse)
            self._earlier = set(self.runs)

    def listed(self, trials: Sequence[Trial], *, repeat: int, label: str) -> list[Run]:
        """All runs of this list so far, this repeat's included."""
        key = self._key(list(trials))
        return self._at(key, repeat, lambda: self._sides.plain(trials, label=label))

    def free(self, space: dict[str, Any], *, num_trials: int, repeat: int, label: str) -> Run:
        """The free search with the repeat as its seed."""
        key = self._key([space, num_trials, repeat])
        search = lambda: self._sides.plain_free(space, num_trials=num_trials, seed=repeat, label=label)  # noqa: E731
        return self._at(key, 0, search)[0]

    def earlier_file(self, trials: Sequence[Trial]) -> str | None:
        """Where this list's figures come from, if not from this command."""
        return str(self._reuse) if self._key(list(trials)) in self._earlier else None

    def _at(self, key: str, repeat: int, run: Callable[[], Run]) -> list[Run]:
        known = self.runs.setdefault(key, [])
        if key not in self._earlier and len(known) <= min(repeat, self._repeats - 1):
            known.append(run())
        return known

    def _key(self, what: list[Any]) -> str:
        sides = self._sides
        everything = [what, sides.images, sides.image_size, sides.epochs, sides.cpus]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, list[Run]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs: dict[str, list[Run]] = content["plain_runs"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"--reuse-plain {path}: not a file that --json wrote ({error})") from None
    now = hardware()
    changed = [name for name in ("processor", "cpus") if content["hardware"].get(name) != now[name]]
    if changed:
        values = "; ".join(f"{name} {content['hardware'].get(name)}, not {now[name]}" for name in changed)
        raise ValueError(f"--reuse-plain {path} was measured on another machine ({values}): leave it out")
    return runs
