"""Shared by both commands: flags become a plan, a plan a study, and a study's leases run on Ray.

The only module that imports all packages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from analysis.tracking import Tracker
from cluster.ray_tune.nodes import check_paths, elastic_slots
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources, check_resources, check_workers, unasked_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.schedulers import load_scheduler
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, recorded_classes, recorded_flags, recorded_weights
from cluster.study.search_choice import choose_probes, choose_search
from cluster.study.space_probe import find_choices, sample_configs
from cluster.study.warm_start import find_warm_starts
from contract.decoding import Fit
from contract.machine import count_cpus, count_gpus
from contract.messages import StudySettings
from contract.metrics import Direction, check_objectives
from contract.study_layout import StudyPaths
from contract.trial_config import TrialConfig, check_validated_alike, config_as_dict, make_trial_config
from contract.weights_source import WeightsSource
from search_spaces import DataFacts, Recipe, SearchSpace, describe, load_space, make_table
from trainables.batch_groups import ExpectedReuse, batch_group, expect_reuse
from trainables.data.corrections import apply_corrections
from trainables.data.datasets import ImageListing, find_images, is_url, leave_out
from trainables.data.description import describe_listing, describe_manifest
from trainables.data.manifest import Manifest, describe_change
from trainables.data.splits import split_listing
from trainables.images.preparation import Preparation, Recorded, describe_shape, prepare_images
from trainables.images.survey import sample_sizes
from trainables.model.backbones import Backbone, check_image_size, find_backbone
from trainables.model.weights import fetch_weights, is_here, locate_weights
from trainables.training.schedules import planned_shares

console = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line unwrapped: a terminal wraps by itself."""
    console.print(text, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before Ray starts."""

    config: StudyConfig
    space: SearchSpace
    backbones: tuple[Backbone, ...]
    weights: tuple[WeightsSource, ...]
    """Weights of each backbone; those on the hub may not be downloaded yet."""

    listing: ImageListing
    resources: Resources
    facts: DataFacts
    image_size: int
    max_epochs: int
    num_trials: int
    recipes: list[Recipe]
    median_aspect: float
    """Long by short side of the images."""

    @property
    def fit(self) -> Fit | None:
        """How images are made square for all backbones; None = as each wants it."""
        return cast(Fit | None, self.config.fit)

    @property
    def fits(self) -> list[Fit]:
        """How images are made square, for each backbone."""
        return [self.fit or backbone.fit for backbone in self.backbones]

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
    space = load_space(config.space)
    # Two names of one row are one backbone.
    backbones = tuple(dict.fromkeys(find_backbone(name) for name in config.backbones or space.backbones))
    if config.address:
        resources = unasked_resources(config)
    else:
        resources = check_resources(config, nodes=[(count_cpus(), count_gpus())])
    assert config.cache_dir is not None
    own = (config.runs_dir, config.cache_dir)
    listing = find_images(config.data, cache_dir=config.cache_dir, group_by=config.group_by, own=own)
    if config.corrections:
        listing, _ = apply_corrections(listing, Path(config.corrections))
    listing, _ = leave_out(listing, config.min_images)
    weights = _locate_all(backbones, config)
    splits = split_listing(listing, seed=config.seed, may_lack_val=config.min_images is not None)
    sizes = sample_sizes(listing.paths)
    facts = DataFacts(
        num_train=int((splits == "train").sum()),
        num_classes=len(listing.classes),
        median_pixels=sizes.median_pixels,
    )
    max_epochs = config.max_epochs or space.max_epochs(facts)
    num_trials = config.trials or space.defaults.trials
    config = choose_search(config, num_trials=num_trials, before=recorded_flags(config.directory))
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
        num_trials=num_trials,
        median_aspect=sizes.median_aspect,
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
    return plan


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


def print_plan(plan: Plan, console: Console) -> None:
    """Print the plan without running it: the space as a table, the recipes, the data, the resources."""
    console.print(make_table(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs))
    for recipe in plan.recipes:
        values = ", ".join(f"{name} {value}" for name, value in recipe.config.items())
        console.print(f"recipe {recipe.name} ({recipe.source}): {values}", markup=False, soft_wrap=True)
    config = plan.config
    splits = split_listing(plan.listing, seed=config.seed, may_lack_val=config.min_images is not None)
    lines = describe_listing(f"{config.data} (files not opened yet)", plan.listing, splits)
    lines += filter(None, [describe_shape(plan.median_aspect, plan.fits)])
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.print(
        f"images: {plan.image_size} px, weights: {plan.config.weights}\n"
        f"trials: {plan.num_trials} of up to {plan.max_epochs} epochs, {plan.resources.describe()}\n"
        f"probes: {plan.num_probes} frozen heads at most, before anything is proposed\n"
        f"{plan.stopping_line}\n"
        f"study: {plan.config.directory}\n"
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


def read_images(plan: Plan) -> tuple[Manifest, Preparation]:
    """Decode every image once, and say which ones are left out and what is odd about others."""
    config = plan.config
    manifest, found = prepare_images(
        plan.listing,
        fits=plan.fits,
        image_size=plan.image_size,
        cache_dir=Path(config.cache_dir or ""),
        budget_gb=config.cache_gb,
        seed=config.seed,
        refuse_bad=config.bad_images == "refuse",
        min_images=config.min_images,
        study=_recorded_images(config),
        console=console,
    )
    if found.left_out:
        print(f"skipping {found.left_out}", file=sys.stderr)
    if found.warning:
        print(found.warning, file=sys.stderr)
    lines = describe_manifest(config.data, manifest, notes=(*plan.listing.notes, *found.notes))
    say("\n".join(filter(None, [*lines, describe_shape(plan.median_aspect, plan.fits)])))
    return manifest, found


def _recorded_images(config: StudyConfig) -> Recorded | None:
    """The images of the study that is continued, unless its flags would cut them otherwise."""
    flags = recorded_flags(config.directory)
    if any(flags.get(name) != getattr(config, name) for name in ("seed", "group_by", "min_images")):
        return None
    return Recorded(StudyPaths(config.directory).manifest, recorded_classes(config.directory))


def study_facts(plan: Plan, manifest: Manifest, found: Preparation) -> dict[str, Any]:
    """Collect the facts of study.json beside the flags; a study is continued only if they are the same."""
    rows, fixed = describe(plan.space, backbones=plan.backbone_names, max_epochs=plan.max_epochs)
    counts = {f"num_{split}": len(manifest.indices(split)) for split in ("train", "val", "test")}
    recorded = StudyPaths(plan.config.directory).manifest
    data = {
        "source": plan.config.data,
        "contents": manifest.contents,
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "left_out": found.left_out,
        "notes": [asdict(note) for note in (*plan.listing.notes, *manifest.notes, *found.notes)],
        **counts,
    }
    return {
        "space_table": [asdict(row) for row in rows],
        "space_fixed": fixed,
        "config_defaults": config_as_dict(TrialConfig(backbone="")),
        "image_size": plan.image_size,
        "fit": plan.config.fit,
        "deep_range": list(found.deep_range),
        "max_epochs": plan.max_epochs,
        "num_probes": plan.num_probes,
        "data": data,
        "data_change": describe_change(recorded, manifest.paths, manifest.digests),
        "backbone_weights": {source.backbone: asdict(source) for source in plan.weights},
        "warm_start": find_warm_starts(
            plan.config.warm_start,
            runs_dir=plan.config.runs_dir,
            data=data,
            space=plan.propose,
            num_trials=plan.num_trials,
            published=[recipe.config for recipe in plan.recipes],
        ),
    }


def find_val_labels(plan: Plan, manifest: Manifest) -> NDArray[np.int64] | None:
    """Classes of the validation images, in their order; None if trials look at some of them only."""
    labels = manifest.labels[manifest.indices("val")]
    configs = [*plan.samples, *(recipe.config for recipe in plan.recipes)]
    is_part = any(0 < config.get("validation_images", 0) < len(labels) for config in configs)
    return None if is_part else labels


def find_val_groups(manifest: Manifest) -> NDArray[np.int64] | None:
    """Groups of the validation images, numbered from 0, in their order; None where each is its own."""
    found, numbers = np.unique(manifest.groups[manifest.indices("val")], return_inverse=True)
    return numbers.astype(np.int64) if len(found) < len(numbers) else None


def make_search(plan: Plan, study: Study, manifest: Manifest) -> Search:
    train_labels = manifest.labels[manifest.indices("train")]
    class_counts = np.bincount(train_labels, minlength=len(manifest.classes)).tolist()
    assert plan.config.searcher is not None and plan.config.scheduler is not None
    pretrained = {source.backbone for source in plan.weights if source.kind != "random"}
    return Search(
        study.records,
        SearchSetup(
            space=plan.propose,
            recipes=[(recipe.name, recipe.config) for recipe in plan.recipes],
            warm_starts=[(start["name"], start["params"]) for start in study.info["warm_start"]],
            make_sampler=load_searcher(plan.config.searcher),
            widths=plan.space.widths,
            scheduler=load_scheduler(plan.config.scheduler),
            num_trials=plan.num_trials,
            seed=plan.config.seed,
            metrics=plan.config.metrics,
            directions=plan.config.directions,
            max_epochs=plan.max_epochs,
            patience=plan.config.patience,
            shares_of=lambda config: planned_shares(config, class_counts),
            val_labels=find_val_labels(plan, manifest),
            val_groups=find_val_groups(manifest),
            # Several workers train one trial at a time.
            group_of=batch_group if plan.config.num_workers == 1 else lambda _: None,
            num_probes=study.info["num_probes"],
            can_probe=lambda config: find_backbone(config["backbone"]).name in pretrained,
        ),
    )


def describe_probing(study: Study, search: Search) -> str:
    """Say in one line how many frozen heads the search judges first; empty if none was asked for."""
    if not study.info["num_probes"]:
        return ""
    if not search.probes.total:
        return "probes: none, since no head of the space trains on pretrained features of a lone worker"
    number, done = search.probes.total, search.probes.num_done
    return f"probes: up to {number} frozen heads are judged before anything is proposed ({done} done)"


def run_leases(plan: Plan, study: Study, search: Search, tracker: Tracker) -> RunEnding:
    """Run what is left of the search on this machine's Ray, or on the cluster at --address.

    Raises:
        ValueError: the cluster does not answer or does not fit; nothing has run yet.
    """
    config = plan.config
    from trainables.distributed import distributed_trial
    from trainables.trial import Trial

    session = open_session(
        address=config.address,
        cpus=count_cpus(),
        gpus=count_gpus(),
        threads=plan.resources.threads,
        cache_dir=config.cache_dir,
        with_state_server=config.num_workers > 1,
    )
    with session as cluster:
        resources = check_resources(
            config,
            nodes=[(node.cpus, node.gpus) for node in cluster.nodes],
            can_grow=not cluster.local and config.concurrent is not None,
        )
        with ExitStack() as stack:
            count_slots, hardware = None, None
            if not cluster.local:
                hardware = {"nodes": cluster.num_nodes, "cpus": cluster.cpus, "gpus": cluster.gpus}
                wanted = 0 if config.concurrent is None else resources.most_slots or 0
                check_paths(StudyPaths(study.directory), others=paths_on_nodes(config))
                count_slots = stack.enter_context(elastic_slots(resources, ask_for=wanted, say=say))
            progress = stack.enter_context(Progress(search, console=console))
            settings = make_settings(plan, study, resources).as_values()
            study.begin(hardware=hardware)
            tracker.start()
            return run_search(
                search,
                trainable=distributed_trial if config.num_workers > 1 else Trial,
                settings=settings,
                resources=resources,
                storage_dir=StudyPaths(study.directory).ray_tune,
                progress=progress,
                time_budget_seconds=config.time_budget_seconds,
                why_lost=lambda: study.lock.lost,
                on_ended=Cleaner(study.paths, search).clean,
                count_slots=count_slots,
            )


def paths_on_nodes(config: StudyConfig) -> list[tuple[str, str]]:
    """List the flags whose value is a file or folder that every node of a cluster needs."""
    given = (("--data", config.data), ("--weights", config.weights))
    return [(flag, value) for flag, value in given if Path(value).is_absolute()]


def make_settings(plan: Plan, study: Study, resources: Resources) -> StudySettings:
    config, reuse = plan.config, plan.expected_reuse
    return StudySettings(
        study_directory=str(study.directory),
        classes=tuple(study.info["data"]["classes"]),
        weights=config.weights,
        backbone_weights=plan.weights,
        image_size=plan.image_size,
        fit=plan.fit,
        deep_range=tuple(study.info["deep_range"]),
        seed=config.seed,
        metric=config.metrics[0],
        maximize=Direction(study.info["direction"]) is Direction.MAXIMIZE,
        cache_directory=str(config.cache_dir),
        cache_gigabytes=config.cache_gb,
        num_trials=plan.num_trials,
        shared_depths=reuse.depths,
        expected_reuse=reuse.share,
        threads=resources.threads,
        data_source=plan.listing.source if is_url(plan.listing.source) else "",
        workers=resources.workers_per_trial,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker or 0.0,
        compile=config.compile,
        max_params=config.max_params,
        max_latency_ms=config.max_latency_ms,
    )
