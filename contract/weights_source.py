"""WeightsSource: where a backbone's weights come from, as study.json keeps it and workers get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Origin of a backbone's weights: plain values that study.json keeps and workers get."""

    kind: Literal["package", "file", "hub", "url", "random"]
    backbone: str
    """Name of the backbone: a row of the table, or a timm name."""

    location: str
    """Package, path, hub repository or URL of the weights; empty for random weights."""

    revision: str = ""
    """Commit of the hub repository; empty for other places."""

    file: str = ""
    """File of the hub repository; empty for other places."""

    digest: str = ""
    """sha256 of the file; empty for random weights, and where the file is not on this machine yet."""

    seed: int = 0
    """Random weights only."""

    identity: str
    """Key of caches: equal exactly if the numbers of the weights are."""
