"""--synthetic: the images of its folder are checked against the study's data and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.decoding import FULL_RANGE, DeepRange
from trainables.data.manifest import Manifest
from trainables.data.synthetic import (
    SyntheticTable,
    check_not_held_out,
    check_origin,
    describe_synthetic,
    synthetic_facts,
)
from trainables.data.views import storage_size
from trainables.images.preparation import Preparation, describe_unreadable, show_progress
from trainables.images.store import open_or_build
from wiring.plan import Plan, console, say


def prepare_synthetic(plan: Plan, manifest: Manifest, found: Preparation) -> SyntheticTable | None:
    """Check and decode the synthetic images of the plan, and say what they are; None without any.

    Raises:
        ValueError: they were made from other data or of another split, or cannot be read.
    """
    listing, config = plan.synthetic, plan.config
    if listing is None:
        return None
    check_origin(listing, manifest, seed=config.seed)
    deep = DeepRange(*found.deep_range) if found.deep_range else FULL_RANGE
    for fit in dict.fromkeys(config.fit or backbone.fit for backbone in plan.backbones):
        with show_progress(console, total=len(listing.paths), what="decoding synthetic images") as progress:
            store = open_or_build(
                listing.paths,
                storage_size=storage_size(plan.image_size, fit),
                fit=fit,
                deep=deep,
                cache_dir=Path(config.cache_dir or ""),
                budget_gb=config.cache_gb,
                progress=progress,
            )
    if line := describe_unreadable(listing.paths, store.facts):
        raise ValueError(f"--synthetic: {line}. Remove or repair them")
    table = SyntheticTable(paths=listing.paths, labels=listing.labels, digests=store.digests)
    check_not_held_out(table, manifest)
    say("\n".join(describe_synthetic(listing, manifest.classes)))
    return table


def facts_of_synthetic(plan: Plan, found: Preparation) -> Mapping[str, Any]:
    """Make what the entry `data` of study.json says of the synthetic images; empty without any."""
    if plan.synthetic is None or found.synthetic is None:
        return {}
    return {"synthetic": synthetic_facts(plan.synthetic, found.synthetic, plan.used.classes)}
