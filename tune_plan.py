"""What is decided before Ray starts: flags, space, data and resources, checked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from cluster.resources import Resources, check_resources, count_cpus, count_gpus
from cluster.searchers import check_searcher
from cluster.space_probe import sample_configs
from cluster.study import StudyConfig
from search_spaces import DataFacts, PriorTrial, SearchSpace, load_space, make_table
from trainables.config import check_validated_alike, make_trial_config
from trainables.data.datasets import ImageListing, find_images
from trainables.data.sizes import median_pixels
from trainables.data.splits import split_images
from trainables.model.backbones import Backbone, check_image_size, find_backbone
from trainables.model.weights import locate_weights
from trainables.sharing.agreement import Agreement, find_agreement
from trainables.training.metrics import check_metrics


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before Ray starts."""

    config: StudyConfig
    space: SearchSpace
    backbones: tuple[Backbone, ...]
    listing: ImageListing
    resources: Resources
    facts: DataFacts
    image_size: int
    max_epochs: int
    num_trials: int
    priors: list[PriorTrial]

    @property
    def backbone_names(self) -> tuple[str, ...]:
        return tuple(backbone.name for backbone in self.backbones)

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
    backbones = tuple(find_backbone(name) for name in config.backbones or space.backbones)
    resources = check_resources(config, cpus=count_cpus(), gpus=count_gpus()) if not config.address else None
    assert config.cache_dir is not None
    listing = find_images(config.data, cache_dir=config.cache_dir)
    for backbone in backbones:
        locate_weights(backbone, config.weights, seed=config.seed)
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
        listing=listing,
        resources=resources or check_resources(config, cpus=float("inf"), gpus=float("inf")),
        facts=facts,
        image_size=config.image_size or space.image_size(facts),
        max_epochs=max_epochs,
        num_trials=config.trials or space.defaults.trials,
        priors=space.prior_trials(
            facts, backbones=tuple(backbone.name for backbone in backbones), max_epochs=max_epochs
        ),
    )
    for backbone in backbones:
        check_image_size(backbone, plan.image_size)
    changed = [prior.config for prior in plan.priors if "validation_images" in prior.config]
    check_validated_alike([*plan.samples, *changed])
    check_searcher(config.searcher, space=plan.propose, metrics=config.metrics)
    return plan


def print_plan(plan: Plan, console: Console) -> None:
    """Say what would run: the space as a table, the prior trials, the data, the resources."""
    console.print(make_table(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs))
    for prior in plan.priors:
        values = ", ".join(f"{name} {value}" for name, value in prior.config.items())
        console.print(f"prior trial {prior.name} ({prior.source}): {values}", markup=False, soft_wrap=True)
    splits = split_images(
        plan.listing.labels, plan.listing.splits, seed=plan.config.seed, classes=plan.listing.classes
    )
    parts = ", ".join(f"{(splits == part).sum():,} {part}" for part in ("train", "val", "test"))
    needs = plan.resources
    console.print(
        f"data: {plan.config.data}, {len(plan.listing.classes)} classes, {parts} (files not opened yet)\n"
        f"images: {plan.image_size} px, weights: {plan.config.weights}\n"
        f"trials: {plan.num_trials} of up to {plan.max_epochs} epochs, {needs.slots} at once, each with "
        f"{needs.workers_per_trial} x ({needs.cpus_per_trial:g} CPU, {needs.gpus_per_trial:g} GPU)\n"
        f"study: {plan.config.directory}\n"
        "dry run: nothing was started or written",
        markup=False,
        soft_wrap=True,
    )
