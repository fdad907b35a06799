"""Portfolio: configurations to begin a study with, in order, and the JSON file in which they are shared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from contract.files import save_json
from contract.trial_config import TrialConfig, config_as_dict, make_trial_config

FORMAT = 1
"""Version of the file; a reader refuses any other."""
SUFFIX = ".json"
"""How the name of a portfolio ends, which tells it from a study's."""


@dataclass(frozen=True, kw_only=True)
class PortfolioEntry:
    """One configuration of a portfolio."""

    name: str
    """Trial and study that it comes from, as tables show it."""

    values: Mapping[str, Any]
    """Hyperparameters that differ from their defaults."""

    @property
    def config(self) -> dict[str, Any]:
        """Return the whole configuration."""
        return config_as_dict(make_trial_config(self.values))


@dataclass(frozen=True, kw_only=True)
class Portfolio:
    """Configurations to begin a study with, the most useful first."""

    spaces: tuple[str, ...]
    """Search spaces of the studies that it was learned from."""

    metric: str
    """Metric that the configurations were judged by."""

    num_sets: int
    """Number of different sets of images among those studies."""

    num_trials: int
    """Number of trials that it was learned from."""

    entries: tuple[PortfolioEntry, ...]

    def save(self, path: Path) -> None:
        """Write the file."""
        save_json(path, {"portfolio": FORMAT} | asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ValueError: in one line, why the file cannot be read as a portfolio of this version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a portfolio: {error}") from None
        if not isinstance(content, dict) or "portfolio" not in content:
            raise ValueError(f"{path} is no portfolio: python -m analysis portfolio STUDY ... writes one")
        if content["portfolio"] != FORMAT:
            raise ValueError(
                f"{path} is a portfolio of format {content['portfolio']!r}, and this version reads {FORMAT}: "
                "write it anew with python -m analysis portfolio"
            )
        try:
            return cls._of(content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} is a damaged portfolio: {why}") from None

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Self:
        """Check every value, because the file may come from someone else."""
        entries = tuple(
            PortfolioEntry(name=_text(entry["name"], "name"), values=_checked(entry))
            for entry in content["entries"]
        )
        if len({entry.name for entry in entries}) < len(entries):
            raise ValueError("two entries have one name")
        return cls(
            spaces=tuple(_text(space, "spaces") for space in content["spaces"]),
            metric=_text(content["metric"], "metric"),
            num_sets=int(content["num_sets"]),
            num_trials=int(content["num_trials"]),
            entries=entries,
        )


def shared_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Cut a configuration down to the hyperparameters that differ from their defaults."""
    usual = config_as_dict(TrialConfig(backbone=""))
    return {name: value for name, value in config.items() if name in usual and value != usual[name]}


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(entry["values"])
    try:
        make_trial_config(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{entry['name']!r}: {error}") from None
    return values


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value
