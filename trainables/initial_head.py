"""Starts a deeper trial from a trained head: the one that a probe with the same head settings ends with."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from contract.probes import frozen_head
from contract.trial_config import config_as_dict
from trainables.run import TrialRun


def start_from_probe(run: TrialRun) -> None:
    """Train the trial's head on cached features before its first epoch, if `initial_head` says so.

    The head trains for the trial's `max_epochs` on the frozen backbone. Everything random is drawn by the
    trial's number, so that the trial has the same head whenever and wherever it begins.
    """
    if run.config.initial_head == "new" or run.config.unfreeze_depth == 0:
        return
    config = frozen_head(config_as_dict(run.config))
    final = run.leased.final
    whole = None if final is None else replace(final, fixed_epochs=None, val_losses=())
    probe = TrialRun(replace(run.leased, config=config, final=whole), run.settings)
    while not probe.finished:
        probe.run_epoch()
    with probe.average.applied() if probe.average else nullcontext():
        run.classifier.head.load_state_dict(probe.classifier.head.state_dict())
    run.process_group.agree_on(list(run.classifier.head.state_dict().values()))
    run.enter_phase(run.phase)  # anew: optimizer and averages begin with the weights that there are now
