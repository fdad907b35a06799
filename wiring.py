"""What is decided before Ray starts: flags, space, data and resources, checked together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from cluster.machine import count_cpus, count_gpus
from cluster.ray_tune.resources import Resources, check_resources, unasked_resources
from cluster.searchers import check_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import recorded_weights
from cluster.study.space_probe import find_choices, sample_configs
from contract.messages import WeightsSource
from contract.trial_config import check_validated_alike, make_trial_config
from search_spaces import DataFacts, Recipe, SearchSpace, load_space, make_table
from trainables.activations.expected_reuse import Agreement, find_agreement
from trainables.data.datasets import ImageListing, find_images
from trainables.data.sizes import median_pixels
from trainables.data.splits import split_images
from trainables.model.backbones import Backbone, check_image_size, find_backbone
from trainables.model.weights import locate_weights
from trainables.training.metric_sums import check_metrics


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before Ray starts."""

    config: StudyConfig
    space: SearchSpace
    backbones: tuple[Backbone, ...]
    weights: tuple[WeightsSource, ...]
    """Of each backbone. Those on the hub may not be downloaded yet."""

    listing: ImageListing
    resources: Resources
    facts: DataFacts
    image_size: int
    max_epochs: int
    num_trials: int
    recipes: list[Recipe]

    @property
    def backbone_names(self) -> tuple[str, ...]:
        return tuple(backbone.name for backbone in self.backbones)

    @property
    def stopping_line(self) -> str:
        """One line that says which trials may be stopped early."""
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
        """Random configurations of the space."""
        return sample_configs(self.propose)

    @cached_property
    def agreement(self) -> Agreement:
        """What the trials will have in common."""
        return find_agreement(self.samples)

    def propose(self, trial: Any) -> dict[str, Any]:
        """One configuration of the space, checked."""
        config = self.space.propose(trial, backbones=self.backbone_names, max_epochs=self.max_epochs)
        return asdict(make_trial_config(config))


def make_plan(config: StudyConfig) -> Plan:
    """Check everything that can be checked without reading images or starting anything.

    Raises:
        ValueError: in one line, what is wrong and what to pass instead.
    """
    check_metrics(config.metrics)
    space = load_space(config.space)
    # Two names of one row are one backbone.
    backbones = tuple(dict.fromkeys(find_backbone(name) for name in config.backbones or space.backbones))
    if config.address:
        resources = unasked_resources(config)
    else:
        resources = check_resources(config, nodes=[(count_cpus(), count_gpus())])
    assert config.cache_dir is not None
    listing = find_images(config.data, cache_dir=config.cache_dir)
    weights = _locate_all(backbones, config)
    splits = split_images(listing.labels, listing.splits, seed=config.seed, classes=listing.classes)
    facts = DataFacts(
        num_train=int((splits == "train").sum()),
        num_classes=len(listing.classes),
        median_pixels=median_pixels(listing.paths),
    )
    max_epochs = config.max_epochs or space.max_epochs(facts)
    plan = Plan(
        config=config,
        space=space,
        backbones=backbones,
        weights=weights,
        listing=listing,
        resources=resources,
        facts=facts,
        image_size=config.image_size or space.image_size(facts),
        max_epochs=max_epochs,
        num_trials=config.trials or space.defaults.trials,
        recipes=space.recipes(
            facts, backbones=tuple(backbone.name for backbone in backbones), max_epochs=max_epochs
        ),
    )
    for backbone in backbones:
        check_image_size(backbone, plan.image_size)
    # One worker takes batches of any size: the space need not be asked for them.
    batch_sizes = find_batch_sizes(plan) if config.num_workers > 1 else []
    check_workers(config, num_val=int((splits == "val").sum()), batch_sizes=batch_sizes)
    changed = [recipe.config for recipe in plan.recipes if "validation_images" in recipe.config]
    check_validated_alike([*plan.samples, *changed])
    check_searcher(config.searcher, space=plan.propose, metrics=config.metrics)
    return plan


def find_batch_sizes(plan: Plan) -> list[int]:
    """Every batch size that the space may propose, as far as asking it often shows them."""
    sizes = {config["batch_size"] for config in plan.samples}
    sizes |= {recipe.config["batch_size"] for recipe in plan.recipes if "batch_size" in recipe.config}
    return sorted(sizes | set(find_choices(plan.propose, "batch_size")))


def check_workers(config: StudyConfig, *, num_val: int, batch_sizes: Sequence[int] = ()) -> None:
    """Check that the workers of one trial can share out its images.

    Raises:
        ValueError: a batch cannot be cut into equal parts, or some worker would get no validation image.
    """
    workers = config.num_workers
    flag = "--gpus-per-trial" if config.workers_per_trial is None else "--workers-per-trial"
    torn = [size for size in batch_sizes if size % workers]
    if torn:
        common = math.gcd(*batch_sizes)
        fitting = [str(num) for num in range(1, common + 1) if common % num == 0]
        raise ValueError(
            f"{flag} {workers}: batch_size {', '.join(map(str, torn))} of --space {config.space} does not "
            f"divide by {workers}; pass one of {', '.join(fitting)}"
        )
    if workers > num_val:
        raise ValueError(
            f"{flag} {workers}: there are only {num_val} validation images, and each worker needs one; "
            "pass a smaller number, or more images"
        )


def _locate_all(backbones: Sequence[Backbone], config: StudyConfig) -> tuple[WeightsSource, ...]:
    """Each backbone's weights: for a study that exists, those that it began with."""
    recorded = {name: WeightsSource(**source) for name, source in recorded_weights(config.directory).items()}
    return tuple(
        locate_weights(backbone, config.weights, seed=config.seed, recorded=recorded.get(backbone.name))
        for backbone in backbones
    )


def print_plan(plan: Plan, console: Console) -> None:
    """Say what would run: the space as a table, the recipes, the data, the resources."""
    console.print(make_table(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs))
    for recipe in plan.recipes:
        values = ", ".join(f"{name} {value}" for name, value in recipe.config.items())
        console.print(f"recipe {recipe.name} ({recipe.source}): {values}", markup=False, soft_wrap=True)
    splits = split_images(
        plan.listing.labels, plan.listing.splits, seed=plan.config.seed, classes=plan.listing.classes
    )
    parts = ", ".join(f"{(splits == part).sum():,} {part}" for part in ("train", "val", "test"))
    console.print(
        f"data: {plan.config.data}, {len(plan.listing.classes)} classes, {parts} (files not opened yet)\n"
        f"images: {plan.image_size} px, weights: {plan.config.weights}\n"
        f"trials: {plan.num_trials} of up to {plan.max_epochs} epochs, {_describe_needs(plan.resources)}\n"
        f"{plan.stopping_line}\n"
        f"study: {plan.config.directory}\n"
        "dry run: nothing was started or written",
        markup=False,
        soft_wrap=True,
    )


def _describe_needs(needs: Resources) -> str:
    """What each trial takes, and how many run at once; what only the cluster knows is said to be unknown."""
    gpus = "1 GPU if there are any" if needs.gpus_per_worker is None else f"{needs.gpus_per_worker:g} GPU"
    at_once = "as many at once as the cluster takes (not asked yet)"
    if needs.slots is not None:
        at_once = f"{needs.slots} at once"
    return f"{at_once}, each with {needs.workers_per_trial} x ({needs.cpus_per_worker:g} CPU, {gpus})"
