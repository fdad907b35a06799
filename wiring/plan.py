"""Flags become a plan: everything that is decided before images are read or Ray starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from cluster.ray_tune.resources import Resources, check_resources, check_workers, unasked_resources
from cluster.study.config import AUTO_BACKBONES, StudyConfig
from cluster.study.directory import (
    recorded_backbone_choice,
    recorded_flags,
    recorded_plan,
    recorded_weights,
)
from cluster.study.search_choice import choose_probes, choose_search
from cluster.study.space_probe import find_choices, sample_configs
from cluster.study.warm_start import check_warm_start
from contract.machine import count_cpus, count_gpus
from contract.metrics import check_objectives
from contract.ranking_metrics import MOST_CELLS, RANKING_METRICS
from contract.trial_config import check_validated_alike, make_trial_config
from contract.weights_source import WeightsSource
from search_spaces import DataFacts, Recipe, SearchSpace, load_space, make_table
from trainables.batch_groups import ExpectedReuse, expect_reuse
from trainables.data.class_mapping import map_classes
from trainables.data.corrections import apply_corrections
from trainables.data.datasets import ImageListing, find_images, leave_out
from trainables.data.description import describe_listing
from trainables.data.splits import split_listing
from trainables.data.synthetic import SyntheticListing, describe_synthetic, list_synthetic
from trainables.images.preparation import note_shape
from trainables.images.survey import sample_sizes
from trainables.model.backbones import Backbone, check_image_size, find_backbone
from trainables.model.weights import fetch_weights, is_here, locate_weights

console = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line unwrapped: a terminal wraps by itself."""
    console.print(text, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before Ray starts."""

    config: StudyConfig
    asked: StudyConfig
    """The flags before searcher and scheduler were chosen for the number of trials."""

    space: SearchSpace
    backbones: tuple[Backbone, ...]
    weights: tuple[WeightsSource, ...]
    """Weights of each backbone; those on the hub may not be downloaded yet."""

    listing: ImageListing
    """All images that are cut into splits; --classes may leave some of them unused."""

    used: ImageListing
    """Those that are used."""

    splits: NDArray[np.str_]
    """Split of every image that is used, before any is opened: copies are not known yet."""

    synthetic: SyntheticListing | None
    """Synthetic images that train beside the used ones; None without --synthetic."""

    resources: Resources
    facts: DataFacts
    image_size: int
    max_epochs: int
    num_trials: int
    recipes: list[Recipe]
    planned: Mapping[str, Any] = field(default_factory=dict)
    """Flags that were left open and planned for a time budget, by name; the study keeps to them."""

    search_ends_at: float = math.inf
    """Unix time at which the search must end for the answer to stand within the time budget."""

    time_ends_at: float = math.inf
    """Unix time at which the time budget ends."""

    expected_seconds: Callable[[Mapping[str, Any]], float] = lambda _: 0.0
    """Worker seconds that a configuration's whole schedule is expected to take; 0 where nobody asks."""

    backbone_choice: tuple[Mapping[str, Any], ...] = ()
    """What --backbones auto measured and decided, a row a candidate, where it did so just now."""

    def num_images(self, split: str) -> int:
        """Number of images in "train", "val" or "test", as far as it is known before any is opened."""
        return int((self.splits == split).sum())

    @property
    def num_synthetic(self) -> int:
        """Number of synthetic images, all of which a trial with synthetic_share 1 adds."""
        return len(self.synthetic.paths) if self.synthetic else 0

    @property
    def backbone_names(self) -> tuple[str, ...]:
        return tuple(backbone.name for backbone in self.backbones)

    @property
    def num_probes(self) -> int:
        """Number of frozen heads that are judged first; a study that exists keeps its own."""
        return choose_probes(self.config, num_trials=self.num_trials, num_backbones=len(self.backbones))

    @property
    def stopping_line(self) -> str:
        """Say in one line which trials may be stopped early."""
        num_recipes = min(len(self.recipes), self.num_trials)
        if self.config.scheduler == "none":
            return "early stopping: off, every trial runs to its end"
        if num_recipes == self.num_trials:
            return "early stopping: nothing is stopped, since every trial is a published recipe"
        return (
            f"early stopping: {self.config.scheduler}, at shares of each trial's own schedule; "
            f"published recipes ({num_recipes}) run to their end"
        )

    @cached_property
    def samples(self) -> list[Mapping[str, Any]]:
        """Draw random configurations of the space."""
        return sample_configs(self.propose)

    @cached_property
    def expected_reuse(self) -> ExpectedReuse:
        """Estimate how often the trials will read the same activations."""
        return expect_reuse(self.samples)

    def propose(self, trial: Any) -> dict[str, Any]:
        """Draw one configuration of the space, and check it."""
        config = self.space.propose(trial, backbones=self.backbone_names, max_epochs=self.max_epochs)
        return asdict(make_trial_config(config))


def make_plan(config: StudyConfig) -> Plan:
    """Check everything that can be checked without reading images or starting anything.

    Raises:
        ValueError: in one line, what is wrong and what to pass instead.
    """
    check_objectives(config.metrics)
    planned = recorded_plan(config.directory)
    config = _keep_planned(config, planned)
    space = load_space(config.space)
    # Two names of one row are one backbone.
    config = _keep_choice(config)
    named = [name for name in config.backbones if name != AUTO_BACKBONES] or space.backbones
    backbones = tuple(dict.fromkeys(find_backbone(name) for name in named))
    if config.address:
        resources = unasked_resources(config)
    else:
        resources = check_resources(config, nodes=[(count_cpus(), count_gpus())])
    assert config.cache_dir is not None
    own = [config.runs_dir, *([Path(config.synthetic)] if config.synthetic else ())]
    listing = find_images(config.data, cache_dir=config.cache_dir, group_by=config.group_by, own=own)
    if config.corrections:
        listing, _ = apply_corrections(listing, Path(config.corrections))
    if config.classes:
        listing = map_classes(listing, Path(config.classes))
    listing, _ = leave_out(listing, config.min_images)
    weights = _locate_all(backbones, config)
    (used, _), splits = split_listing(listing, seed=config.seed, min_images=config.min_images)
    _check_ranking(config.metrics, used, splits)
    sizes = sample_sizes(used.paths)
    fits = [config.fit or backbone.fit for backbone in backbones]
    used = replace(used, notes=(*used.notes, *note_shape(sizes.median_aspect, fits)))
    facts = DataFacts(
        num_train=int((splits == "train").sum()),
        num_classes=len(used.classes),
        median_pixels=sizes.median_pixels,
    )
    max_epochs = config.max_epochs or space.max_epochs(facts)
    num_trials = config.trials or space.defaults.trials
    plan = Plan(
        config=choose_search(config, num_trials=num_trials, before=recorded_flags(config.directory)),
        asked=config,
        space=space,
        backbones=backbones,
        weights=weights,
        listing=listing,
        used=used,
        splits=splits,
        synthetic=list_synthetic(Path(config.synthetic), used.classes) if config.synthetic else None,
        resources=resources,
        facts=facts,
        image_size=config.image_size or space.image_size(facts),
        max_epochs=max_epochs,
        num_trials=num_trials,
        recipes=space.recipes(
            facts, backbones=tuple(backbone.name for backbone in backbones), max_epochs=max_epochs
        ),
        planned=planned,
    )
    _check_plan(plan)
    return plan


def with_choices(plan: Plan, **choices: Any) -> Plan:
    """Change `trials`, `max_epochs`, `image_size` or `backbones`, as if they were given as flags.

    Raises:
        ValueError: they do not fit each other.
    """
    config, before = replace(plan.asked, **choices), recorded_flags(plan.config.directory)
    names = plan.backbone_names if AUTO_BACKBONES in config.backbones else config.backbones
    names = names or plan.space.backbones
    kept = {backbone.name: pair for backbone, *pair in zip(plan.backbones, plan.weights, strict=True)}
    backbones = tuple(backbone for backbone in plan.backbones if backbone.name in names)
    max_epochs = config.max_epochs or plan.max_epochs
    num_trials = config.trials or plan.num_trials
    changed = replace(
        plan,
        config=choose_search(config, num_trials=num_trials, before=before),
        asked=config,
        backbones=backbones,
        weights=tuple(kept[backbone.name][0] for backbone in backbones),
        image_size=config.image_size or plan.image_size,
        max_epochs=max_epochs,
        num_trials=num_trials,
        recipes=plan.space.recipes(
            plan.facts, backbones=tuple(backbone.name for backbone in backbones), max_epochs=max_epochs
        ),
    )
    _check_plan(changed)
    return changed


def _keep_planned(config: StudyConfig, planned: Mapping[str, Any]) -> StudyConfig:
    """Fill in flags that are left open as they were planned when the study began."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in planned.items()
        if not getattr(config, name)
    }
    return replace(config, **values)


def _check_plan(plan: Plan) -> None:
    for backbone in plan.backbones:
        check_image_size(backbone, plan.image_size)
    # One worker takes batches of any size: the space need not be asked for them.
    batch_sizes = find_batch_sizes(plan) if plan.config.num_workers > 1 else []
    check_workers(plan.config, num_val=plan.num_images("val"), batch_sizes=batch_sizes)
    check_warm_start(plan.config, plan.propose)
    changed = [recipe.config for recipe in plan.recipes if "validation_images" in recipe.config]
    check_validated_alike([*plan.samples, *changed])
    _check_synthetic(plan)


def _check_synthetic(plan: Plan) -> None:
    """Check that there are synthetic images if and only if the space adds some.

    Raises:
        ValueError: otherwise.
    """
    configs = [*plan.samples, *(recipe.config for recipe in plan.recipes)]
    adds_some = any(config.get("synthetic_share") for config in configs)
    if adds_some and plan.synthetic is None:
        raise ValueError(
            f"--space {plan.space.name} adds synthetic images: pass their folder with --synthetic DIR, which "
            "python -m trainables synthesize --data … --out DIR makes, or search another space"
        )
    if plan.synthetic is not None and not adds_some:
        raise ValueError(
            f"--synthetic: --space {plan.space.name} never adds synthetic images: pass --space synthetic, or "
            "leave --synthetic out"
        )


def narrow_plan(plan: Plan, names: Sequence[str], *, choice: Sequence[Mapping[str, Any]]) -> Plan:
    """Keep some of the plan's backbones, in their order; `choice` says why, a row a candidate."""
    kept = [at for at, name in enumerate(plan.backbone_names) if name in names]
    backbones = tuple(plan.backbones[at] for at in kept)
    found = [backbone.name for backbone in backbones]
    return replace(
        plan,
        config=replace(plan.config, backbones=tuple(found)),
        backbones=backbones,
        weights=tuple(plan.weights[at] for at in kept),
        recipes=plan.space.recipes(plan.facts, backbones=found, max_epochs=plan.max_epochs),
        backbone_choice=tuple(choice),
    )


def _keep_choice(config: StudyConfig) -> StudyConfig:
    """Replace --backbones auto by what the study chose when it began, if it did.

    Raises:
        ValueError: a candidate is named that it did not look at.
    """
    recorded = recorded_backbone_choice(config.directory) if AUTO_BACKBONES in config.backbones else []
    if not recorded:
        return config
    known = [row["name"] for row in recorded]
    named = [find_backbone(name).name for name in config.backbones if name != AUTO_BACKBONES]
    if new := [name for name in named if name not in known]:
        raise ValueError(
            f"--backbones auto: study {config.name} chose among {', '.join(known)} when it began: to search "
            f"{', '.join(new)} too, name all without auto, or start another study with --study NAME"
        )
    return replace(config, backbones=tuple(row["name"] for row in recorded if row["kept"]))


def _check_ranking(metrics: Sequence[str], used: ImageListing, splits: NDArray[np.str_]) -> None:
    """Check that metrics of a ranking exist for the validation images, and are computed.

    Raises:
        ValueError: one is asked for and is not.
    """
    asked = [name for name in metrics if name in RANKING_METRICS]
    labels = used.labels[splits == "val"]
    if asked and len(set(labels.tolist())) < 2:
        raise ValueError(f"--metric {asked[0]} needs validation images of two classes: add some")
    if asked and metrics[0] not in RANKING_METRICS and len(labels) * len(used.classes) > MOST_CELLS:
        raise ValueError(
            f"--metric: of so many images and classes {asked[0]} is computed only where it comes first: pass "
            f"{','.join([asked[0], *(name for name in metrics if name != asked[0])])}"
        )


def find_batch_sizes(plan: Plan) -> list[int]:
    """Collect the batch sizes that the space proposes in many random configurations."""
    sizes = {config["batch_size"] for config in plan.samples}
    sizes |= {recipe.config["batch_size"] for recipe in plan.recipes if "batch_size" in recipe.config}
    return sorted(sizes | set(find_choices(plan.propose, "batch_size")))


def _locate_all(backbones: Sequence[Backbone], config: StudyConfig) -> tuple[WeightsSource, ...]:
    """Locate each backbone's weights; a study that exists keeps those that it began with."""
    recorded = {name: WeightsSource(**source) for name, source in recorded_weights(config.directory).items()}
    return tuple(
        locate_weights(backbone, config.weights, seed=config.seed, recorded=recorded.get(backbone.name))
        for backbone in backbones
    )


def print_plan(plan: Plan, console: Console, *, lines: Sequence[str] = ()) -> None:
    """Print the plan without running it: space, recipes, data, resources, and lines about its time."""
    console.print(make_table(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs))
    for recipe in plan.recipes:
        values = ", ".join(f"{name} {value}" for name, value in recipe.config.items())
        console.print(f"recipe {recipe.name} ({recipe.source}): {values}", markup=False, soft_wrap=True)
    config = plan.config
    data = describe_listing(f"{config.data} (files not opened yet)", plan.used, plan.splits)
    data += describe_synthetic(plan.synthetic, plan.used.classes) if plan.synthetic else []
    console.print("\n".join(data), markup=False, soft_wrap=True)
    console.print(
        f"images: {plan.image_size} px, weights: {plan.config.weights}\n"
        f"trials: {plan.num_trials} of up to {plan.max_epochs} epochs, {plan.resources.describe()}\n"
        f"probes: {plan.num_probes} frozen heads at most, before anything is proposed\n"
        f"{plan.stopping_line}\n"
        f"warm start: {' '.join(config.warm_start) or 'none'}\n"
        + "".join(f"{line}\n" for line in lines)
        + f"study: {plan.config.directory}\n"
        "dry run: nothing was started or written",
        markup=False,
        soft_wrap=True,
    )


def fetch_all_weights(plan: Plan) -> Plan:
    """Download the weights that are not here yet: once, and before any trial depends on them."""
    fetched = []
    for source in plan.weights:
        if not is_here(source):
            say(f"downloading the weights of {source.backbone}: {source.location}")
        fetched.append(fetch_weights(source))
    return replace(plan, weights=tuple(fetched))
