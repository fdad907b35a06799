"""Chooses searcher, scheduler and number of probes where the flags leave them open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.study.config import StudyConfig
from contract.metrics import is_share

MOST_TRIALS = 64
"""Most trials of a study that searches by evidence: beyond, stopping early saves more than it loses."""
PROBES_A_BACKBONE = 8
"""Frozen heads judged for each backbone, where there are several to choose among."""
TRIALS_A_BACKBONE = 8
"""Least trials for each backbone that is probed: with fewer the passes through all cost too much."""

Choice = Mapping[str, Any]
"""Flags of a study that exists; empty for a new one."""


def choose_search(config: StudyConfig, *, num_trials: int, before: Choice) -> StudyConfig:
    """Fill in --searcher and --scheduler: what the study had before, else what suits its size.

    Up to MOST_TRIALS trials `evidence` finds better models in the same time, beyond it ASHA
    (`python -m benchmarks search_quality`). It compares shares of images, so other metrics keep ASHA. The
    searcher `guided` needs trials that are not stopped by their first epochs' ranks: with ASHA TPE is better.
    """
    is_small = num_trials <= MOST_TRIALS and len(config.metrics) == 1 and is_share(config.metrics[0])
    scheduler = "evidence" if is_small else "asha" if len(config.metrics) == 1 else "none"
    scheduler = config.scheduler or before.get("scheduler") or scheduler
    searcher = "guided" if scheduler == "evidence" else "tpe"
    searcher = config.searcher or before.get("searcher") or searcher
    return replace(config, searcher=searcher, scheduler=scheduler)


def choose_probes(config: StudyConfig, *, num_trials: int, num_backbones: int) -> int:
    """Fill in --probes: heads on several backbones show which of them suits the images.

    With one backbone they brought nothing (`python -m benchmarks search_quality`), and only the searcher
    `guided` reads them.
    """
    if config.probes is not None:
        return config.probes
    is_worth_it = num_backbones > 1 and num_trials >= TRIALS_A_BACKBONE * num_backbones
    return PROBES_A_BACKBONE * num_backbones if is_worth_it and config.searcher == "guided" else 0
