"""Images a second of frozen passes and of training by unfreeze depth, on images that are on the device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.accelerator.arithmetic import Arithmetic, computing, lay_out, of_trials, variants
from benchmarks.accelerator.limits import Limits
from benchmarks.accelerator.study import Task, caching, epoch_batches, start_trial, train
from benchmarks.accelerator.timing import Clock, count_flops
from trainables.activations.inputs import extraction_batch
from trainables.activations.shared import drop_backbones
from trainables.device.accelerator import autocast
from trainables.run import TrialRun
from trainables.training.trainable_part import compiled

FROZEN, TRAINING = "frozen passes", "training"
UPDATES = 8
"""Updates of a timed call: the loop reads the loss of an update once the next one is queued."""

UNIT = "images/s"
NO_COMPILER = "on a CPU the compiler takes half a minute a network: left out"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A trial whose speed is a row of the table."""

    task: Task
    backbone: str
    depth: int | str
    arithmetic: Arithmetic
    what: str
    """The row's name."""

    def start(self) -> TrialRun:
        """Build the trial, in its arithmetic's layout."""
        settings = self.task.settings(compiled=self.arithmetic.compiled)
        run = start_trial(settings, self.task.config(self.backbone, self.depth))
        lay_out(run.classifier, self.arithmetic)
        return run


def measure_frozen(clock: Clock, limits: Limits, task: Task, *, backbone: str) -> None:
    """Time the pass that computes features for the cache, in each arithmetic, and by the images at once."""
    own = of_trials(clock.device)
    sizes = sorted({32, task.batch_size, 4 * task.batch_size, extraction_batch(clock.device)})
    for arithmetic in variants(clock.device):
        for size in sizes if arithmetic == own else (task.batch_size,):
            what = f"{backbone}, {arithmetic.name}, {size} at once"
            cell = Cell(task=task, backbone=backbone, depth=0, arithmetic=arithmetic, what=what)
            clock.attempt(FROZEN, what, partial(_time_pass, clock, limits, cell, size))
    if clock.device.type != "cuda":
        clock.skip(FROZEN, f"{backbone}, compiled", NO_COMPILER)


def _time_pass(clock: Clock, limits: Limits, cell: Cell, size: int) -> None:
    arithmetic = cell.arithmetic
    with computing(arithmetic), caching(False):
        run = cell.start()
        run.classifier.eval()
        images = _images(run, size)
        work = partial(run.classifier.prefix_features, images)
        cost = count_flops(work) / size
        note = "as trials fill the cache" if size == extraction_batch(run.device) else ""
        if arithmetic.compiled:
            work, note = _compiled_pass(run, images), "trials do not compile it"
        limit = limits.of_products(arithmetic.precision)
        clock.rate(FROZEN, cell.what, work, amount=size, unit=UNIT, cost=cost, limit=limit, note=note)
    _drop(arithmetic)


def _compiled_pass(run: TrialRun, images: Tensor) -> partial[Tensor]:
    fast = compiled(run.classifier.prefix)

    @torch.no_grad()
    def compute() -> Tensor:
        with autocast(images.device):
            return fast(images)

    return partial(compute)


def measure_training(
    clock: Clock, limits: Limits, task: Task, *, backbone: str, depths: Sequence[int | str]
) -> None:
    """Time the loop's updates by unfreeze depth in each arithmetic, the frozen part computed every time.

    In the trials' own arithmetic they are timed on cached activations, too.
    """
    own = of_trials(clock.device)
    for depth in depths:
        costs: dict[bool, float] = {}  # counted uncompiled: the counter does not see into compiled code
        # A head alone is never compiled.
        for arithmetic in (one for one in variants(clock.device) if depth or not one.compiled):
            for on_activations in (False, True) if arithmetic == own and depth != "all" else (False,):
                what = f"{backbone}, depth {depth}, {arithmetic.name}"
                what += ", on activations" if on_activations else ""
                cell = Cell(task=task, backbone=backbone, depth=depth, arithmetic=arithmetic, what=what)
                work = partial(_time_training, clock, limits, cell, costs, on_activations=on_activations)
                clock.attempt(TRAINING, what, work)
    if clock.device.type != "cuda":
        clock.skip(TRAINING, f"{backbone}, compiled", NO_COMPILER)


def _time_training(
    clock: Clock, limits: Limits, cell: Cell, costs: dict[bool, float], *, on_activations: bool
) -> None:
    size = cell.task.batch_size
    with computing(cell.arithmetic), caching(False):
        run = cell.start()
        inputs, targets = _images(run, size), _targets(run, size)
        if on_activations:
            assert run.updates is not None
            inputs, run.updates.forward = run.inputs["train"].features(inputs), run.trainable
        batches = [(inputs, targets)] * UPDATES
        if on_activations not in costs:
            costs[on_activations] = count_flops(lambda: train(run, batches[:1])) / size
        clock.rate(
            TRAINING,
            cell.what,
            lambda: train(run, batches),
            amount=UPDATES * size,
            unit=UNIT,
            cost=costs[on_activations],
            limit=limits.of_products(cell.arithmetic.precision),
        )
        assert run.updates is not None
        if run.updates.micro_batch.is_reduced:
            at_once = run.updates.micro_batch.size
            clock.skip(TRAINING, cell.what, f"memory ran out: {at_once} images at once in the row above")
    _drop(cell.arithmetic)


def _images(run: TrialRun, count: int) -> Tensor:
    """Views of training images on the device [count, 3, S, S]; few images are repeated."""
    parts: list[Tensor] = []
    for inputs, _ in itertools.chain.from_iterable(epoch_batches(run) for _ in itertools.count()):
        parts.append(inputs)
        if sum(map(len, parts)) >= count:
            break
    return torch.cat(parts)[:count]


def _targets(run: TrialRun, count: int) -> Tensor:
    return torch.arange(count, device=run.device) % len(run.settings.classes)


def _drop(arithmetic: Arithmetic) -> None:
    """Drop the shared backbone where its weights have another layout than the next trial's."""
    if not arithmetic.channels_last:
        drop_backbones()
