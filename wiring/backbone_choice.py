"""--backbones auto: rules out backbones by their frozen features, before the study is made.

The features are computed on this machine and land in the activation cache that trials read: what a trial with
a frozen backbone, without augmentation, needs of a kept one is there already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from analysis.calibration.backbones import choose_backbones, draw_images, judge_features
from cluster.study.config import AUTO_BACKBONES
from contract.buckets import is_url
from contract.files import plural
from contract.messages import StudySettings
from contract.study_layout import StudyPaths
from trainables.data.datasets import ImageListing, take_images
from trainables.data.manifest import Manifest
from trainables.images.preparation import Preparation, prepare_images, show_progress
from trainables.model.weights import is_here
from wiring.plan import Plan, console, narrow_plan, say

FEWEST = 6
"""Images of each class that a dry run looks at, if there are so many."""
SAMPLE = 600
"""Images that a dry run looks at, at most: about a minute for three small networks on a laptop."""


def settle_backbones(plan: Plan, manifest: Manifest, found: Preparation) -> Plan:
    """Replace --backbones auto by the backbones that are kept; a plan without it stays as it is."""
    if AUTO_BACKBONES not in plan.config.backbones:
        return plan
    if len(plan.backbones) == 1:
        say(f"--backbones auto: {plan.backbone_names[0]} is the only candidate; name others behind auto")
        return narrow_plan(plan, plan.backbone_names, choice=[])
    rows = judge(plan, manifest, deep_range=found.deep_range, cache_dir=Path(plan.config.cache_dir or ""))
    print_choice(rows, num_val=len(manifest.indices("val")))
    kept = [row["name"] for row in rows if row["kept"]]
    return narrow_plan(plan, kept, choice=rows)


def preview_backbones(plan: Plan) -> None:
    """Show for a dry run how a sample of the images judges the backbones; nothing of it is kept.

    The sample is decoded into a temporary folder, which is gone afterwards.
    """
    if AUTO_BACKBONES not in plan.config.backbones or len(plan.backbones) == 1:
        return
    here = [name for name, source in zip(plan.backbone_names, plan.weights, strict=True) if is_here(source)]
    if missing := [name for name in plan.backbone_names if name not in here]:
        say(
            f"--backbones auto: not judged, since their weights are not on this machine: {', '.join(missing)}"
        )
    if is_url(plan.listing.source):
        say("--backbones auto: not judged, since a dry run copies no images")
        return
    if len(here) < 2:
        return
    with tempfile.TemporaryDirectory(prefix="unfreeze-dry-run-") as folder:
        manifest, found = prepare_images(
            _sample(plan.used, plan.splits),
            fits=[plan.config.fit or backbone.fit for backbone in plan.backbones],
            image_size=plan.image_size,
            cache_dir=Path(folder),
            budget_gb=plan.config.cache_gb,
            seed=plan.config.seed,
            refuse_bad=False,
            min_images=plan.config.min_images or 1,
            console=console,
        )
        shown = narrow_plan(plan, here, choice=[])
        rows = judge(shown, manifest, deep_range=found.deep_range, cache_dir=Path(folder))
    print_choice(rows, num_val=len(manifest.indices("val")))
    number = plural(len(manifest), "image")
    say(
        f"--backbones auto: judged by {number} in a temporary folder that is removed again; a search uses all"
    )


def _sample(listing: ImageListing, splits: NDArray[np.str_]) -> ImageListing:
    """Take evenly spread images of each class, without those of a test split."""
    keep = np.zeros(len(listing.paths), dtype=np.bool_)
    share = min(1.0, SAMPLE / max(1, int((splits != "test").sum())))
    for label in range(len(listing.classes)):
        rows = np.flatnonzero((listing.labels == label) & (splits != "test"))
        number = min(len(rows), max(FEWEST, round(share * len(rows))))
        keep[rows[np.linspace(0, len(rows) - 1, number).astype(int)]] = True
    return listing if keep.all() else take_images(listing, keep)


def judge(
    plan: Plan, manifest: Manifest, *, deep_range: tuple[float, ...], cache_dir: Path
) -> list[dict[str, Any]]:
    """Judge the plan's backbones by their frozen features: a row for each, as study.json keeps it."""
    from trainables.activations.shared import drop_backbones, open_cache
    from trainables.export.backbone_cost import measure_cost

    pretrained = {source.backbone for source in plan.weights if source.kind != "random"}
    if not pretrained:
        raise ValueError("--backbones auto judges pretrained features, and no candidate has any: name one")
    with tempfile.TemporaryDirectory(prefix="unfreeze-backbones-") as folder:
        settings = _settings(
            plan, manifest, directory=Path(folder), deep_range=deep_range, cache_dir=cache_dir
        )
        hits = {
            name: _judge_one(name, settings, manifest) if name in pretrained else None
            for name in plan.backbone_names
        }
        costs = {name: measure_cost(name, settings) for name in plan.backbone_names if name in pretrained}
    if cache := open_cache(settings.cache_directory, settings.cache_gigabytes):
        cache.close()
    drop_backbones()
    rows = choose_backbones(
        hits, manifest.groups[_looked_at(manifest, "val")], favourite=plan.backbone_names[0]
    )
    return [row.as_values() | _cost_values(costs.get(row.name)) for row in rows]


def _judge_one(name: str, settings: StudySettings, manifest: Manifest) -> Any:
    from trainables.export.frozen_features import frozen_features

    with show_progress(console, total=len(manifest), what=f"features of {name}") as progress:
        features = frozen_features({"backbone": name}, settings, progress=progress)
    chosen = {}
    for split, (ids, values) in features.items():
        rows = np.searchsorted(ids, _looked_at(manifest, split))
        chosen[split] = (values[rows], manifest.labels[ids[rows]])
    return judge_features(*chosen["train"], *chosen["val"], num_classes=len(manifest.classes))


def _looked_at(manifest: Manifest, split: str) -> np.ndarray:
    ids = manifest.indices(split)
    drawn: np.ndarray = ids[draw_images(manifest.groups[ids], seed=0)]
    return drawn


def _settings(
    plan: Plan, manifest: Manifest, *, directory: Path, deep_range: tuple[float, ...], cache_dir: Path
) -> StudySettings:
    """Settings of a study of these images, whose data.csv stands in `directory`."""
    config = plan.config
    manifest.write_csv(StudyPaths(directory).manifest)
    return StudySettings(
        study_directory=str(directory),
        classes=manifest.classes,
        weights=config.weights,
        backbone_weights=plan.weights,
        image_size=plan.image_size,
        fit=config.fit,
        deep_range=deep_range,
        seed=config.seed,
        metric=config.metrics[0],
        maximize=True,
        cache_directory=str(cache_dir),
        cache_gigabytes=config.cache_gb,
        num_trials=plan.num_trials,
        threads=plan.resources.threads,
        gpus_per_worker=plan.resources.gpus_per_worker or 0.0,
    )


def _cost_values(cost: Any) -> dict[str, Any]:
    if cost is None:
        return {"multiply_adds": None, "milliseconds": None}
    return {"multiply_adds": cost.multiply_adds, "milliseconds": round(cost.milliseconds, 3)}


def print_choice(rows: Sequence[Mapping[str, Any]], *, num_val: int) -> None:
    """Print what was measured and decided, a line a backbone."""
    table = Table(title=f"frozen features of the backbones, on {plural(num_val, 'validation image')}")
    for column in ("backbone", "10 nearest images", "ridge probe", "million multiply-adds", "ms", ""):
        table.add_column(column)
    for row in rows:
        adds, took = row["multiply_adds"], row["milliseconds"]
        table.add_row(
            row["name"],
            _share(row["neighbours"]),
            _share(row["ridge"]),
            "" if adds is None else f"{adds / 1e6:,.0f}",
            "" if took is None else f"{took:.1f}",
            "" if row["kept"] else "left out",
        )
    console.print(table)
    for row in rows:
        say(f"{row['name']} is {'kept' if row['kept'] else 'left out'}: {row['why']}")


def _share(values: Mapping[str, float] | None) -> str:
    """Accuracy and its 95 % interval, in percent."""
    if values is None:
        return ""
    value, low, high = (100 * values[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.0f}-{high:.0f})"
