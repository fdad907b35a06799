"""One trial on this worker: puts data, model and training together, runs its epochs, keeps its state."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contract.messages import LeasedTrial, Outcome, Report, StudySettings
from contract.metrics import epoch_merit
from contract.predictions import pack_classes
from contract.ranking_metrics import RANKING_METRICS
from contract.trial_config import TrialConfig, kept_epoch, make_trial_config
from trainables.activations.inputs import Inputs
from trainables.activations.shared import (
    borrow_backbone,
    borrow_frozen_prefixes,
    open_cache,
    open_cost_model,
)
from trainables.assembly import (
    make_average,
    make_phase_optimizer,
    make_view,
)
from trainables.data.storage_faults import wait_out_faults
from trainables.data.views import draw_uniform
from trainables.device.accelerator import forget_peak, peak_memory_gb
from trainables.device.memory import FittingSize
from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.frozen_prefixes import FrozenPrefixes
from trainables.model.heads import NeighbourHead
from trainables.model.stages import num_stages
from trainables.model.weights import choose_weights
from trainables.training.early_stopping import Kept, Patience
from trainables.training.head_batch import HeadEpoch
from trainables.training.imbalance import draw_order
from trainables.training.loop import (
    EVALUATION_BATCH,
    EvaluationResult,
    TrainResult,
    Updates,
    cut_batches,
    cut_evaluation,
    evaluate,
    train_epoch,
)
from trainables.training.neighbours import fit_neighbours
from trainables.training.process_group import ProcessGroup
from trainables.training.regimes import Phase, load_regime
from trainables.training.schedules import make_schedule, num_batches
from trainables.training.trainable_part import TrainablePart, compiled
from trainables.trial_images import load_images

CHECKPOINT_FORMAT = 4
"""Raised whenever the content of a checkpoint changes; a trial begins anew where it differs."""

logger = logging.getLogger(__name__)


class TrialRun:
    """A trial from its configuration to its last epoch; `checkpoint_state` and `continue_from` move it on."""

    def __init__(
        self, leased: LeasedTrial, settings: StudySettings, *, process_group: ProcessGroup | None = None
    ) -> None:
        self.leased, self.number, self.attempt = leased, leased.trial, leased.attempt
        self.settings, self.process_group = settings, process_group or ProcessGroup()
        self.config: TrialConfig = make_trial_config(leased.config)
        self.fixed_epochs = None if leased.final is None else leased.final.fixed_epochs
        self.kept_rule = "last" if self.fixed_epochs else kept_epoch(leased.config)
        self.paths = leased.paths(settings.paths)
        self.device = torch.device("cuda" if settings.use_gpu else "cpu")
        self.epoch, self.finished = 0, False
        self.records: list[Report] = []
        self.kept, self.patience = Kept(), Patience()
        self.evaluation: EvaluationResult | None = None
        """What the newest epoch's validation measured; None before the first."""
        forget_peak(self.device)
        wait_out_faults(self._build)
        self.enter_phase(self.phases[0])

    def _build(self) -> None:
        config, settings = self.config, self.settings
        if config.batch_size % self.process_group.size:
            raise ValueError(
                f"batch_size {config.batch_size} cannot be shared by {self.process_group.size} workers"
            )
        self.backbone = find_backbone(config.backbone)
        self.fit = settings.fit or self.backbone.fit
        self.regime = load_regime(config.regime)
        self.weights = choose_weights(
            self.backbone,
            settings.backbone_weights,
            settings.weights,
            seed=settings.seed,
            pretrained=self.regime.pretrained,
        )
        images = load_images(config, settings, fit=self.fit, device=self.device, final=self.leased.final)
        self.splits, self.validated = images.splits, images.validated
        self.train_labels, self.class_weights = images.train_labels, images.class_weights
        module = borrow_backbone(
            self.backbone,
            weights=self.weights,
            depth=config.unfreeze_depth,
            image_size=settings.image_size,
            device=self.device,
            pooling=config.head_pooling,
        )
        self.phases = self.regime.phases(config, num_stages(module))
        head = self.regime.make_head(
            config,
            in_features=num_features(module),
            num_classes=len(settings.classes),
            num_train=len(self.splits["train"]),
            seed=self._draw_seed("head"),
        )
        self.classifier = Classifier(
            module,
            head.to(self.device),
            depth=self.phases[0].depth,
            frozen_batch_norm=config.frozen_batch_norm,
        )
        if settings.use_gpu:
            self.classifier.to(self.device).to(memory_format=torch.channels_last)

    def enter_phase(self, phase: Phase) -> None:
        """Set what trains in a phase, and start its inputs, optimizer and schedule."""
        self.phase, self.step, self.patience = phase, 0, Patience()
        if self.classifier.depth != phase.depth:
            self.classifier.set_depth(phase.depth)
        part = TrainablePart(self.classifier)
        trainable = self.process_group.joined(part)
        # A head alone trains in milliseconds, and the compiler takes seconds.
        is_compiled = self.settings.compile and phase.depth != 0
        self.trainable = compiled(trainable) if is_compiled else trainable
        # Validation takes the bare part: workers look at different numbers of batches, and the joined one
        # would wait at each batch for workers that have no more.
        self.validatable = self.trainable if trainable is part else part
        self._statistics = [] if trainable is part else list(part.buffers())
        self.evaluated_at_once = FittingSize()
        self.inputs = {split: self._make_inputs(split) for split in ("train", "val")}
        self.optimizer, self.average, self.updates = None, None, None
        if not self.regime.uses_neighbours:
            self.optimizer = make_phase_optimizer(self.config, self.classifier, phase)
            self.average = make_average(self.config, self.classifier, self.optimizer)
            self.updates = self._make_updates(self.optimizer, trainable)
        config, num_train = self.config, len(self.splits["train"])
        steps_per_epoch = num_batches(num_train, size=config.batch_size, limit=config.steps_per_epoch)
        self.schedule = make_schedule(
            config.schedule,
            total_steps=phase.num_epochs * steps_per_epoch,
            warmup_steps=round(config.warmup_epochs * steps_per_epoch),
            num_train=num_train,
        )

    def _make_inputs(self, split: str) -> Inputs:
        """Make the source of "train" or "val" batches in this phase, with a cache where one is worth it."""
        config, settings, is_train = self.config, self.settings, split == "train"
        view = make_view(config, settings, fit=self.fit, is_train=is_train, final=self.leased.final)
        mixed = is_train and config.mixup_alpha > 0  # mixed images have no activations of their own
        readings = 1 if view.is_random and not view.only_mirrors else self.phase.num_epochs
        others = settings.num_trials - 1
        return Inputs(
            self.splits[split],
            view,
            self.classifier,
            trainable=self.trainable if is_train else self.validatable,
            weights=self.weights.identity,
            backbone=f"{self.backbone.key} {config.head_pooling}",
            cache=None if mixed else open_cache(settings.cache_directory, settings.cache_gigabytes),
            costs=open_cost_model(settings.cache_directory),
            threads=settings.threads,
            uses=readings
            * (1 + others * settings.expected_reuse),  # by its own epochs, and by trials like it
            dtype=settings.activation_dtype,
            prefixes=self._borrow_frozen_prefixes(),
            chance=1 - (1 - settings.expected_reuse) ** others,
        )

    def _borrow_frozen_prefixes(self) -> FrozenPrefixes | None:
        """The frozen prefixes of all of the study's depths, where there are several."""
        if len(self.settings.shared_depths) < 2:
            return None
        return borrow_frozen_prefixes(
            self.backbone,
            weights=self.weights,
            depths=self.settings.shared_depths,
            image_size=self.settings.image_size,
            device=self.device,
            pooling=self.config.head_pooling,
        )

    def _make_updates(self, optimizer: torch.optim.Optimizer, trainable: torch.nn.Module) -> Updates:
        return Updates(
            forward=self.inputs["train"].forward,
            optimizer=optimizer,
            num_classes=len(self.settings.classes),
            micro_batch=self._fitting(self.config.micro_batch_size),
            changing=tuple(trainable.buffers()),
            mixup_alpha=self.config.mixup_alpha,
            label_smoothing=self.config.label_smoothing,
            class_weights=self.class_weights,
            gradient_clip=self.config.gradient_clip,
            device=str(self.device),
        )

    def _fitting(self, asked: int | None = None) -> FittingSize:
        """A size that shrinks for a lone worker only: several have to agree on the passes of an update."""
        return FittingSize(asked, may_shrink=self.process_group.size == 1)

    def run_epoch(self, trained: TrainResult | None = None) -> Report:
        """Train, unless the head has trained in lockstep already, validate, and keep what the rule says.

        Raises:
            Diverged: the loss is no longer finite.
        """
        started = time.perf_counter() - (trained.seconds if trained else 0.0)
        self.epoch += 1
        if self.epoch > self.phase.last_epoch:
            self.enter_phase(self.phases[self.phases.index(self.phase) + 1])
        if trained is None:
            trained = self._fit_neighbours() if self.regime.uses_neighbours else self._train()
        averaged: AbstractContextManager[None] = self.average.applied() if self.average else nullcontext()
        with averaged:
            self.evaluation = validated = self._validate()
            metrics = self._metrics(trained, validated, seconds=time.perf_counter() - started)
            self.schedule.observe(self._observed_loss(metrics["val_loss"]))
            self.patience.observe(metrics["val_loss"])
            self.finished = self._is_over(schedule_ended=trained.ended)
            self._keep(metrics, validated)
        report = Report(
            trial=self.number,
            attempt=self.attempt,
            epoch=self.epoch,
            metrics=metrics,
            outcome=Outcome.COMPLETE if self.finished else None,
            predicted=pack_classes(validated.log_probabilities.argmax(dim=1).numpy()),
        )
        self.records.append(report)
        return report

    def head_epoch(self) -> HeadEpoch:
        """Prepare the next epoch of a lone head for training in lockstep with others."""
        assert self.updates is not None
        assert isinstance(self.classifier.head, torch.nn.Sequential)
        generator, batches = self._draw_batches(self.epoch + 1)
        return HeadEpoch(
            head=self.classifier.head,
            updates=self.updates,
            batches=((self.inputs["train"].features(inputs), targets) for inputs, targets in batches),
            schedule=self.schedule,
            first_step=self.step,
            generator=generator,
        )

    def _train(self) -> TrainResult:
        generator, batches = self._draw_batches(self.epoch)
        assert self.updates is not None
        self.classifier.train()
        return train_epoch(
            self.updates,
            batches,
            schedule=self.schedule,
            first_step=self.step,
            generator=generator,
            reduce=self.process_group.reduce,
        )

    def _draw_batches(self, epoch: int) -> tuple[torch.Generator, Iterator[tuple[Tensor, Tensor]]]:
        generator = torch.Generator().manual_seed(self._draw_seed("epoch", epoch))
        order = draw_order(self.train_labels, self.config.sampler, generator)
        batches = cut_batches(order, size=self.config.batch_size, limit=self.config.steps_per_epoch)
        return generator, self.inputs["train"].batches(self.process_group.share_batches(batches), epoch=epoch)

    def _fit_neighbours(self) -> TrainResult:
        head, inputs = self.classifier.head, self.inputs["train"]
        assert isinstance(head, NeighbourHead)
        positions = np.arange(len(self.splits["train"]))
        own = self.process_group.share(positions)
        return fit_neighbours(
            head,
            inputs.features,
            inputs.batches(cut_evaluation(positions), epoch=self.epoch),
            forward=inputs.forward,
            share=inputs.batches(cut_evaluation(own), epoch=self.epoch),
            num_classes=len(self.settings.classes),
            device=str(self.device),
            reduce=self.process_group.reduce,
        )

    def _validate(self) -> EvaluationResult:
        self.classifier.eval()
        self.process_group.agree_on(self._statistics)  # batch norm saw other images on each worker
        result = evaluate(
            self.inputs["val"].forward,
            self.inputs["val"].batches(cut_evaluation(self.process_group.share(self.validated)), epoch=0),
            num_classes=len(self.settings.classes),
            device=str(self.device),
            reduce=self.process_group.reduce,
            fitting=self.evaluated_at_once,
        )
        return result.joined(
            partial(self.process_group.gather, num_rows=len(self.validated), device=self.device)
        )

    def _metrics(self, train: TrainResult, val: EvaluationResult, *, seconds: float) -> dict[str, float]:
        self.step = train.next_step
        parameters, trainable = self.classifier.num_parameters()
        return {
            **train.sums.compute("train"),
            **val.compute(always_rank=self.settings.metric in RANKING_METRICS),
            "images_per_second": train.images * self.process_group.size / train.seconds,
            "epoch_seconds": seconds,
            "last_learning_rate": train.learning_rate,
            "images_at_once": self._images_at_once(),
            "peak_memory_gb": peak_memory_gb(self.device),
            "parameters": parameters,
            "trainable_parameters": trainable,
        }

    def _images_at_once(self) -> int:
        share = self.config.batch_size // self.process_group.size
        return self.updates.micro_batch.of(share) if self.updates else EVALUATION_BATCH

    def _keep(self, metrics: Mapping[str, float], validated: EvaluationResult) -> None:
        """Keep the epoch's weights and predictions, if the trial's rule puts it above those before."""
        value, loss = metrics.get(self.settings.metric, math.nan), metrics["val_loss"]
        merit = epoch_merit(
            self.kept_rule, self.epoch, value=value, loss=loss, maximize=self.settings.maximize
        )
        # Nobody asks for the last epoch before the trial is over: a checkpoint holds the same weights.
        if merit <= self.kept.merit or (self.kept_rule == "last" and not self.finished):
            return
        trained = {name: tensor.cpu().clone() for name, tensor in self.classifier.trained_state().items()}
        self.kept = Kept(self.epoch, value, merit, self.phase.depth, trained, validated.log_probabilities)

    def _observed_loss(self, val_loss: float) -> float:
        """The loss that a plateau schedule follows: where the epochs are fixed, the source trial's."""
        losses = () if self.leased.final is None else self.leased.final.val_losses
        return losses[self.epoch - 1] if self.epoch <= len(losses) else val_loss

    def _is_over(self, *, schedule_ended: bool) -> bool:
        if self.epoch >= (self.fixed_epochs or self.phases[-1].last_epoch):
            return True
        patience = 0 if self.fixed_epochs else self.config.early_stopping_patience
        out_of_patience = self.patience.is_out(patience)
        return self.phase is self.phases[-1] and (schedule_ended or out_of_patience)

    def _draw_seed(self, purpose: str, epoch: int = 0) -> int:
        """A seed from the study's seed, the trial and the epoch: a replayed epoch draws the same numbers."""
        value = draw_uniform(self.settings.seed, purpose, epoch, np.array([self.leased.draw]), 1)
        return int(value[0, 0] * 2**53)

    def checkpoint_state(self) -> dict[str, Any]:
        """Return the trial's state between two epochs for a checkpoint: tensors, numbers and strings."""
        return {
            "format": CHECKPOINT_FORMAT,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "step": self.step,
            "records": json.dumps([record.as_values() for record in self.records]),
            **self._trained_state(),
            "images_at_once": self.updates.micro_batch.size if self.updates else None,
            "schedule": self.schedule.state(),
            "kept": asdict(self.kept),
            "patience": self.patience.state(),
        }

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Go on after the epoch of a checkpoint, or begin anew if another version has written it."""
        if state.get("format") != CHECKPOINT_FORMAT:
            logger.warning("trial %d begins anew: another version has written its checkpoint", self.number)
            return
        self.epoch = int(state["epoch"])
        self.enter_phase(next(phase for phase in self.phases if self.epoch <= phase.last_epoch))
        self.step = int(state["step"])
        self.records = [Report.from_values(values) for values in json.loads(state["records"])]
        self.restore(state)
        if self.updates and state["images_at_once"] != self.updates.micro_batch.size:
            self.updates.micro_batch.reduce_to(state["images_at_once"])
        self.schedule.load_state(state["schedule"])
        self.kept = Kept(**state["kept"])
        self.patience = Patience(**state["patience"])

    def snapshot(self) -> dict[str, Any]:
        """A copy of what an epoch's updates change, for `restore`."""
        return copy.deepcopy(self._trained_state())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set weights, optimizer and average to those of a snapshot or a checkpoint."""
        self.classifier.load_trained_state(state["trained"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state(**state["average"])

    def _trained_state(self) -> dict[str, Any]:
        return {
            "trained": self.classifier.trained_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "average": self.average.state() if self.average else {},
        }
