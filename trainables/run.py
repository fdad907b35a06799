"""A trial's epochs on this worker, from its newest checkpoint on: wires data, model, training and sharing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.config import StudySettings, TrialConfig, make_trial_config
from trainables.data.mixing import Mix
from trainables.data.views import draw_uniform
from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.heads import make_head
from trainables.model.stages import num_stages
from trainables.sharing.backbone_pool import borrow_backbone
from trainables.sharing.inputs import Inputs
from trainables.sharing.parts import ViewSettings, oversampled
from trainables.sharing.study_data import find_weights, load_parts, open_cache, open_cost_model
from trainables.training.imbalance import class_weights, draw_order
from trainables.training.loop import EvaluationResult, TrainResult, evaluate, train_epoch
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.regimes import Phase, load_regime
from trainables.training.schedules import make_schedule

EVALUATION_BATCH = 128
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Team:
    """The workers that train a trial together; each takes its share of every batch."""

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    """Sums a tensor over the workers."""

    wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda module: module
    """Makes the trainable part average its gradients over the workers."""


@dataclass
class Best:
    """The best epoch so far: what the trial is ranked by and leaves behind."""

    epoch: int = 0
    value: float = math.nan
    trained: dict[str, Tensor] = field(default_factory=dict)
    probabilities: Tensor | None = None


class _Trainable(torch.nn.Module):
    """Suffix and head as a module of their own, which is what several workers wrap."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.suffix, self.head = classifier.suffix, classifier.head
        self._forward = classifier.forward_features

    def forward(self, features: Tensor) -> Tensor:
        return self._forward(features)


class TrialRun:
    """One study trial in the hands of this worker."""

    def __init__(
        self, lease: Mapping[str, Any], settings: StudySettings, *, team: Team | None = None
    ) -> None:
        self.number, self.attempt = int(lease["trial"]), int(lease["attempt"])
        self.settings, self.team = settings, team or Team()
        self.config: TrialConfig = make_trial_config(lease["config"])
        self.directory = Path(settings.study_directory) / "trials" / str(self.number)
        self.device = torch.device("cuda" if settings.use_gpu else "cpu")
        self.epoch, self.finished = 0, False
        self.records: list[Report] = []
        self.best, self.lowest_val_loss, self.epochs_without_gain = Best(), math.inf, 0
        self._build()
        self._enter_phase(self.phases[0])

    def _build(self) -> None:
        config, settings = self.config, self.settings
        if config.batch_size % self.team.size:
            raise ValueError(f"batch_size {config.batch_size} cannot be shared by {self.team.size} workers")
        self.backbone = find_backbone(config.backbone)
        self.regime = load_regime(config.regime)
        self.weights = find_weights(
            self.backbone, settings.weights, seed=settings.seed, pretrained=self.regime.pretrained
        )
        self.parts = load_parts(settings, self.backbone.fit, self.device)
        if config.minority_policy:
            self.parts = {**self.parts, "train": oversampled(self.parts["train"])}
        self.train_labels = self.parts["train"].labels.cpu().numpy()
        weights = class_weights(self.train_labels, len(settings.classes), config.class_weights)
        self.class_weights = None if weights is None else weights.to(self.device)
        module = borrow_backbone(
            self.backbone,
            weights=self.weights,
            depth=config.unfreeze_depth,
            image_size=settings.image_size,
            device=self.device,
        )
        self.phases = self.regime.phases(config, num_stages(module))
        head = make_head(
            num_features(module),
            len(settings.classes),
            width=config.head_width,
            dropout=config.dropout,
            batch_norm=config.head_batch_norm,
            zero_init=config.zero_init_head,
            seed=self._draw_seed("head"),
        )
        self.classifier = Classifier(module, head.to(self.device), depth=self.phases[0].depth).to(self.device)
        if settings.use_gpu:
            self.classifier.to(memory_format=torch.channels_last)

    def _enter_phase(self, phase: Phase) -> None:
        """Set what trains, and start its optimizer and schedule."""
        self.phase, self.step = phase, 0
        if self.classifier.depth != phase.depth:
            self.classifier.set_depth(phase.depth)
        self.trainable = self.team.wrap(_Trainable(self.classifier))
        config = self.config
        groups = make_parameter_groups(
            head=dict(self.classifier.head.named_parameters()),
            backbone=self.classifier.trainable_backbone_parameters(),
            learning_rate=config.learning_rate * phase.learning_rate_factor,
            backbone_learning_rate_factor=config.backbone_learning_rate_factor,
            weight_decay=config.weight_decay,
        )
        self.optimizer = make_optimizer(
            config.optimizer, groups, momentum=config.momentum, nesterov=config.nesterov
        )
        updates = len(self._batch_bounds(len(self.parts["train"])))
        self.schedule = make_schedule(
            config.schedule,
            total_steps=phase.num_epochs * updates,
            warmup_steps=round(config.warmup_epochs * updates),
            num_train=len(self.parts["train"]),
        )
        self.inputs = {name: self._make_inputs(name) for name in ("train", "val")}

    def _make_inputs(self, part: str) -> Inputs:
        is_train = part == "train"
        view = self._make_view(is_train=is_train)
        mixed = is_train and self.config.mixup_alpha > 0  # mixed images have no activations of their own
        cache = open_cache(self.settings.cache_directory, self.settings.cache_gigabytes)
        return Inputs(
            self.parts[part],
            view,
            self.classifier,
            trainable=self.trainable,
            weights=self.weights.identity,
            backbone=self.backbone.timm_name,
            cache=None if mixed else cache,
            costs=open_cost_model(self.settings.cache_directory),
            threads=self.settings.threads,
            uses=self._expected_uses(view),
        )

    def _make_view(self, *, is_train: bool) -> ViewSettings:
        config = self.config
        plain = ViewSettings(
            policy="none",
            image_size=self.settings.image_size,
            fit=self.backbone.fit,
            seed=self.settings.seed,
            is_blank=config.zero_inputs,
        )
        if not is_train:
            return plain
        mix = Mix(
            kind=config.mix,
            alpha=config.mix_alpha,
            mixed_share=config.mix_share,
            smallest_side=config.cutmix_min,
            largest_side=config.cutmix_max,
        )
        return replace(plain, policy=config.policy, minority_policy=config.minority_policy, mix=mix)

    def _expected_uses(self, view: ViewSettings) -> float:
        """How often a view is read: by every epoch where it is the same one, and by an eighth of the trials.

        That share is a guess, as trials differ in policy, depth and backbone; a wrong one costs time only.
        """
        readings = 1 if view.is_random else self.phase.num_epochs
        return readings * max(1.0, self.settings.num_trials / 8)

    def run_epoch(self) -> Report:
        """Train and validate once, and note the best epoch.

        Raises:
            Diverged: the loss is no longer finite.
        """
        started = time.perf_counter()
        self.epoch += 1
        if self.epoch > self.phase.last_epoch:
            self._enter_phase(self.phases[self.phases.index(self.phase) + 1])
        trained = self._train()
        validated = self._validate()
        seconds = time.perf_counter() - started
        metrics = self._metrics(trained, validated, seconds=seconds)
        self._note_best(metrics, validated)
        self.schedule.observe(metrics["val_loss"])
        self.finished = self._is_over(metrics["val_loss"], schedule_ended=trained.ended)
        report: Report = {
            "trial": self.number,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "metrics": metrics,
            "outcome": "complete" if self.finished else None,
            "reason": None,
            "traceback": None,
        }
        self.records.append(report)
        return report

    def _train(self) -> TrainResult:
        generator = torch.Generator().manual_seed(self._draw_seed("epoch", self.epoch))
        order = draw_order(self.train_labels, self.config.sampler, generator)
        self.classifier.train()
        config = self.config
        return train_epoch(
            self.inputs["train"].forward,
            self.inputs["train"].batches(self._shares(order), epoch=self.epoch),
            optimizer=self.optimizer,
            schedule=self.schedule,
            first_step=self.step,
            num_classes=len(self.settings.classes),
            generator=generator,
            micro_batch_size=config.micro_batch_size,
            mixup_alpha=config.mixup_alpha,
            label_smoothing=config.label_smoothing,
            class_weights=self.class_weights,
            gradient_clip=config.gradient_clip,
            device=str(self.device),
            reduce=self.team.reduce,
        )

    def _validate(self) -> EvaluationResult:
        self.classifier.eval()
        positions = np.arange(len(self.parts["val"]))[self.team.rank :: self.team.size]
        shares = [positions[at : at + EVALUATION_BATCH] for at in range(0, len(positions), EVALUATION_BATCH)]
        return evaluate(
            self.inputs["val"].forward,
            self.inputs["val"].batches(shares, epoch=0),
            num_classes=len(self.settings.classes),
            device=str(self.device),
            reduce=self.team.reduce,
        )

    def _batch_bounds(self, num_images: int) -> list[tuple[int, int]]:
        """Where each update's batch starts and stops; a last image on its own has no batch statistics."""
        size = self.config.batch_size
        bounds = [(start, min(start + size, num_images)) for start in range(0, num_images, size)]
        return bounds[:-1] if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < 2 else bounds

    def _shares(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """This worker's part of every batch; all workers' parts are equally large, filled up where needed."""
        size, rank = self.team.size, self.team.rank
        batches = [order[start:stop] for start, stop in self._batch_bounds(len(order))]
        filled = [np.resize(batch, math.ceil(len(batch) / size) * size) for batch in batches]
        return [batch[rank::size] for batch in filled]

    def _metrics(self, train: TrainResult, val: EvaluationResult, *, seconds: float) -> dict[str, float]:
        self.step = train.next_step
        parameters, trainable = self.classifier.num_parameters()
        return {
            "epoch": self.epoch,
            **train.sums.compute("train"),
            **val.sums.compute("val"),
            "images_per_second": train.images * self.team.size / train.seconds,
            "epoch_seconds": seconds,
            "learning_rate": train.learning_rate,
            "parameters": parameters,
            "trainable_parameters": trainable,
        }

    def _note_best(self, metrics: Mapping[str, float], validated: EvaluationResult) -> None:
        value = metrics[self.settings.metric]
        sign = 1 if self.settings.maximize else -1
        if self.best.epoch and not sign * value > sign * self.best.value:
            return
        trained = {name: tensor.cpu().clone() for name, tensor in self.classifier.trained_state().items()}
        self.best = Best(self.epoch, value, trained, self._gather(validated.probabilities))

    def _gather(self, own: Tensor) -> Tensor:
        """All workers' rows, in the order of the validation part."""
        if self.team.reduce is None:
            return own
        whole = torch.zeros(len(self.parts["val"]), own.shape[1], device=self.device)
        whole[self.team.rank :: self.team.size] = own.float().to(self.device)
        return self.team.reduce(whole).half().cpu()

    def _is_over(self, val_loss: float, *, schedule_ended: bool) -> bool:
        gained = val_loss < self.lowest_val_loss
        self.lowest_val_loss = min(val_loss, self.lowest_val_loss)
        self.epochs_without_gain = 0 if gained else self.epochs_without_gain + 1
        patience = self.config.early_stopping_patience
        out_of_patience = 0 < patience <= self.epochs_without_gain
        last = self.phase is self.phases[-1]
        return self.epoch >= self.config.epochs or (last and schedule_ended) or out_of_patience

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs: tensors, numbers and strings."""
        return {
            "attempt": self.attempt,
            "epoch": self.epoch,
            "step": self.step,
            "records": json.dumps(self.records),
            "trained": self.classifier.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "best": asdict(self.best),
            "lowest_val_loss": self.lowest_val_loss,
            "epochs_without_gain": self.epochs_without_gain,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on behind the epoch of a checkpoint."""
        self.epoch = int(state["epoch"])
        self._enter_phase(next(phase for phase in self.phases if self.epoch <= phase.last_epoch))
        self.step = int(state["step"])
        self.records = json.loads(state["records"])
        self.classifier.load_trained_state(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state(state["schedule"])
        self.best = Best(**state["best"])
        self.lowest_val_loss = float(state["lowest_val_loss"])
        self.epochs_without_gain = int(state["epochs_without_gain"])

    def _draw_seed(self, purpose: str, epoch: int = 0) -> int:
        """From the study's seed, the trial and the epoch: a replayed epoch draws the same numbers."""
        value = draw_uniform(self.settings.seed, purpose, epoch, np.array([self.number]), 1)
        return int(value[0, 0] * 2**53)
