"""Greedy soup (Wortsman et al. 2022): the weights of several trials, averaged to those of one classifier.

It costs at inference what one of them does. Averaging makes sense where the trials began with the same
weights, so only trials with the same `soup_key` are put together, and only as long as the validation loss
falls.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contract.answer import MemberRef
from contract.messages import LeasedTrial, StudySettings
from contract.predictions import pack_log_probabilities
from contract.study_layout import TrialPaths
from contract.trial_config import config_as_dict, make_trial_config
from trainables.export.members import Configs, config_of, network_of
from trainables.run import TrialRun
from trainables.training.checkpoints import load_state, save_result
from trainables.training.loop import cut_batches, cut_evaluation, evaluate
from trainables.training.regimes import load_regime

NORM_IMAGES = 1024
"""Training images, at most, from which the statistics of batch norms that trained are estimated anew."""

MOST_ROUNDS = 3
"""Most times that each trial is tried; one that is taken again counts twice."""

State = Mapping[str, Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Soup:
    """A soup, and how it compares with the best of its trials alone."""

    counts: Mapping[MemberRef, int]
    """How often each trial was taken."""

    config: Mapping[str, Any]
    """Configuration of the best trial: backbone, depth and head are those of all."""

    metrics: Mapping[str, float]
    """Values on the validation images, by the names of METRICS."""

    single_loss: float
    """Validation loss of the best trial alone."""


def soup_key(config: Mapping[str, Any], settings: StudySettings) -> Hashable:
    """A key that is equal for configurations whose weights may be averaged; None for those that never may.

    Hidden layers are drawn anew for every trial, and average to nothing useful; nor do neighbours' features.
    """
    trial = make_trial_config(config)
    regime = load_regime(trial.regime)
    if trial.head_width != 0 or regime.uses_neighbours or not regime.pretrained or trial.zero_inputs:
        return None
    head = (trial.head_batch_norm, trial.initial_head, trial.zero_init_head)
    return (network_of(trial, settings), trial.unfreeze_depth, *head)


def make_soup(
    refs: Sequence[MemberRef],
    configs: Configs,
    settings: StudySettings,
    *,
    target: TrialPaths,
    progress: Progress | None = None,
) -> Soup | None:
    """Make the greedy soup of trials, and write its `model.pt` and `predictions.npz` as a trial does.

    Trials are tried in the order of their own validation loss, and again while that lowers the loss.
    Validation reads cached activations of the frozen prefix. None, and nothing is written, if no average
    is better than the best trial alone.

    Raises:
        ValueError: the trials cannot be averaged, or the weights of one are gone.
    """
    states = _load_states(refs, configs, settings)
    kitchen = _Kitchen(config_as_dict(config_of(refs[0], configs)), settings)
    alone = {ref: kitchen.validate([states[ref]]) for ref in refs}
    order = sorted(refs, key=lambda ref: alone[ref].loss)
    taken, best, lost = [order[0]], alone[order[0]], 0
    tries = (order * MOST_ROUNDS)[1:]
    for number, ref in enumerate(tries, start=1):
        tried = kitchen.validate([states[one] for one in (*taken, ref)])
        if tried.loss < best.loss:
            taken, best, lost = [*taken, ref], tried, 0
        else:
            lost += 1
        if progress is not None:
            progress(number, len(tries))
        if lost == len(order):
            break
    if len(set(taken)) < 2:
        return None
    kitchen.save(kitchen.validate([states[one] for one in taken]), target)
    return Soup(
        counts={ref: taken.count(ref) for ref in order if ref in taken},
        config=config_as_dict(config_of(order[0], configs)),
        metrics=best.metrics,
        single_loss=alone[order[0]].loss,
    )


def _load_states(
    refs: Sequence[MemberRef], configs: Configs, settings: StudySettings
) -> dict[MemberRef, State]:
    keys = {soup_key(config_as_dict(config_of(ref, configs)), settings) for ref in refs}
    if len(refs) < 2 or len(keys) > 1 or None in keys:
        raise ValueError(
            "a soup needs two trials or more of one backbone, depth and linear head that began alike"
        )
    loaded = {ref: load_state(ref.paths(settings.paths).weights) for ref in refs}
    gone = [ref.name for ref, state in loaded.items() if state is None]
    if gone:
        raise ValueError(f"the weights of {', '.join(gone)} are missing or damaged: run the study again")
    states: dict[MemberRef, State] = {ref: state["trained"] for ref, state in loaded.items() if state}
    if len({frozenset(state) for state in states.values()}) > 1:
        raise ValueError("the trials ended at several unfreeze depths and cannot be averaged")
    return states


@dataclass(frozen=True, eq=False)
class _Validated:
    metrics: Mapping[str, float]
    log_probabilities: Tensor

    @property
    def loss(self) -> float:
        return self.metrics["val_loss"]


class _Kitchen:
    """A classifier into which averages are put, with the inputs of the trial that it is made for."""

    def __init__(self, config: Mapping[str, Any], settings: StudySettings) -> None:
        self.settings = settings
        self.run = TrialRun(LeasedTrial(trial=0, attempt=1, config=config, done_epochs=0), settings)
        self.run.enter_phase(self.run.phases[-1])

    def validate(self, states: Sequence[State]) -> _Validated:
        """Put the mean of the states into the classifier, and validate it as an epoch does."""
        run = self.run
        run.classifier.load_trained_state(average(states))
        if len(states) > 1:
            self._estimate_norms()
        run.classifier.eval()
        result = evaluate(
            run.inputs["val"].forward,
            run.inputs["val"].batches(cut_evaluation(run.validated), epoch=0),
            num_classes=len(self.settings.classes),
            device=str(run.device),
        )
        return _Validated(result.sums.compute("val"), result.log_probabilities)

    @torch.no_grad()
    def _estimate_norms(self) -> None:
        """Estimate the statistics of the batch norms that trained, on views of the last epoch.

        Averaged weights make other activations than those that the averaged statistics are of.
        """
        run = self.run
        run.classifier.train()
        norms = [
            module
            for module in (*run.classifier.suffix.modules(), *run.classifier.head.modules())
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]
        if not norms:
            return
        run.classifier.eval()  # dropout and stochastic depth stay off
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean over all batches
        count = len(run.splits["train"])
        order = np.random.default_rng(self.settings.seed).permutation(count)[:NORM_IMAGES]
        size = max(run.config.batch_size, 2)
        batches = [batch for batch in cut_batches(order, size=size) if len(batch) > 1]
        for inputs, _ in run.inputs["train"].batches(batches, epoch=run.phases[-1].last_epoch):
            run.inputs["train"].forward(inputs.to(run.device))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def save(self, validated: _Validated, target: TrialPaths) -> None:
        """Write what the classifier now is, and what it predicted for the validation images."""
        run = self.run
        trained = {name: tensor.cpu().clone() for name, tensor in run.classifier.trained_state().items()}
        content = {
            "trained": trained,
            "depth": run.classifier.depth,
            "epoch": run.phases[-1].last_epoch,
            "value": validated.metrics[self.settings.metric],
            "num_train": len(run.splits["train"]),
        }
        split = run.splits["val"]
        labels = split.labels.cpu().numpy()[run.validated]
        predictions = {
            "ids": split.ids[run.validated],
            "labels": labels,
            **pack_log_probabilities(validated.log_probabilities.numpy(), labels),
        }
        target.directory.mkdir(parents=True, exist_ok=True)
        save_result(target, model=content, predictions=predictions, attempt=1)


def average(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of trained states, tensor by tensor; counters are the first one's."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
