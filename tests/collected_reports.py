"""A Ray Train callback that writes reports to a file, in a module that Ray can import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray import train


class CollectReports(train.UserCallback):
    """One line of JSON for each report of rank 0."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(metrics[0]["reports"]) + "\n")
